"""POST /v1/experiments/sweeps: many patched runs, each scored by a metric."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.aio import AsyncClient
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments import Criterion, Experiment, Scores, SweepResult
from neuroscope.experiments import criterion as to_criterion
from neuroscope.experiments.patching import METHODS
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import NDJSON, NDJSON_CONTENT, ndjson_lines, stream_response
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.http.message_json import event_json
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.routes.experiment_params import experiment_param
from neuroscope_gateway.schemas import sweeps as schemas
from neuroscope_gateway.schemas.arrays import to_nested_lists

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)
_METHOD_NAMES = {number: name for name, number in METHODS.items()}


@router.post(
    "/sweeps",
    response_model=schemas.SweepResponse,
    responses={200: {"description": "The values", "content": NDJSON_CONTENT}},
)
async def run_sweep(body: schemas.SweepRequest, request: Request, client: InferenceDep) -> Response:
    """Runs a sweep; with `stream`, one line of JSON for each event. A disconnect cancels it."""
    criterion = _criterion(body)
    result = SweepResult(Experiment(body.to_message()))
    if not body.stream:
        return JsonResponse(await cancel_on_disconnect(request.receive, _sweep_json(client, result, criterion)))
    return await stream_response(request, _events(client, result), ndjson_lines, NDJSON)


def _criterion(body: schemas.SweepRequest) -> Criterion | None:
    """The criterion of the texts.

    Raises:
        InvalidRequestError: the criterion is unknown, or there are no texts.
    """
    if body.criterion is None:
        return None
    if body.generation is None or body.stream:
        raise InvalidRequestError(
            "a criterion judges generated texts, once all are there: ask for a generation, and for no stream",
            field="criterion",
        )
    # A regular expression can run for ever, and other requests share this process.
    if body.criterion.partition(":")[0] == "regex":
        raise InvalidRequestError("patterns are for the client to try on the texts", field="criterion")
    return to_criterion(body.criterion)


async def _sweep_json(client: AsyncClient, result: SweepResult, criterion: Criterion | None) -> dict[str, Any]:
    async with aclosing(_events(client, result)) as events:
        async for _ in events:
            pass
    result.finish()
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    baselines = result.to_json()
    return schemas.SweepResponse(
        model=plan.model_id,
        metric=result.experiment.request.metric.WhichOneof("kind") or "",
        method=_METHOD_NAMES[plan.method],  # type: ignore[arg-type]
        reason=plan.reason,
        clean=baselines["clean"],
        corrupted=baselines["corrupted"],
        clean_texts=_run_texts(result, "clean"),
        corrupted_texts=_run_texts(result, "corrupted"),
        grids=[_grid_values(name, result[name], criterion) for name in result.names],
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


def _grid_values(name: str, scores: Scores, criterion: Criterion | None) -> schemas.GridValues:
    return schemas.GridValues.of(
        name,
        scores,
        texts=None if scores.texts is None else np.array(scores.texts).tolist(),
        scores=None if criterion is None else to_nested_lists(scores.by(criterion).values),
    )


def _run_texts(result: SweepResult, run: str) -> list[Any] | None:
    texts = result[result.names[0]].texts
    return None if texts is None else [None if text is None else text.text for text in getattr(texts, run)]


async def _events(client: AsyncClient, result: SweepResult) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a sweep as JSON, while they fill the result."""
    with rest_params(experiment_param):
        async with aclosing(client.sweep_events(result)) as events:
            async for event in events:
                yield event_json(event)
