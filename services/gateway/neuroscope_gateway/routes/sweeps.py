"""POST /v1/experiments/sweeps: many edited runs of a few prompts, each scored by one number."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from google.protobuf import json_format
from numpy.typing import NDArray
from starlette.responses import Response, StreamingResponse

from neuroscope.aio import AsyncClient
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments import Criterion, Experiment, Scores, SweepResult
from neuroscope.experiments import criterion as to_criterion
from neuroscope.experiments.patching import METHODS
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import NDJSON, ndjson_lines
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.schemas import sweeps as schemas

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)
_METHOD_NAMES = {number: name for name, number in METHODS.items()}


@router.post(
    "/sweeps",
    response_model=schemas.SweepResponse,
    responses={200: {"description": "The values", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def run_sweep(body: schemas.SweepRequest, request: Request, client: InferenceDep) -> Response:
    """Runs a sweep; answers with all values or, with `stream`, a line for every event. Leaving cancels it."""
    criterion = _criterion(body)
    result = SweepResult(Experiment(body.to_message()))
    if not body.stream:
        return JsonResponse(await cancel_on_disconnect(request.receive, _sweep_json(client, result, criterion)))
    events = _events(client, result)
    first = await cancel_on_disconnect(request.receive, anext(events))  # so that a refusal still has its status
    lines = ndjson_lines(prepend(first, events))
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


def _criterion(body: schemas.SweepRequest) -> Criterion | None:
    """What judges the texts.

    Raises:
        InvalidRequestError: there is no such criterion, or there are no texts.
    """
    if body.criterion is None:
        return None
    if body.generation is None or body.stream:
        raise InvalidRequestError(
            "a criterion judges generated texts, once all are there: ask for a generation, and for no stream",
            field="criterion",
        )
    if body.criterion.partition(":")[0] == "regex":  # one can take for ever, and this process is everybody's
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
    return schemas.GridValues(
        name=name,
        dims=list(scores.dims),
        coords={dim: list(values) for dim, values in scores.coords.items()},
        values=to_nested_lists(scores.values),
        texts=None if scores.texts is None else np.array(scores.texts).tolist(),
        scores=None if criterion is None else to_nested_lists(scores.by(criterion).values),
    )


def _run_texts(result: SweepResult, run: str) -> list[Any] | None:
    texts = result[result.names[0]].texts
    return None if texts is None else [None if text is None else text.text for text in getattr(texts, run)]


async def _events(client: AsyncClient, result: SweepResult) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a sweep as JSON; the result is filled on the way."""
    try:
        async with aclosing(client.sweep_events(result)) as events:
            async for event in events:
                yield event_json(event)
    except MLXIntegrationError as error:
        error.field = experiment_param(error.field)
        raise


async def prepend(
    first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[dict[str, Any], None]:
    """The first event and the rest."""
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


def event_json(event: pb.RunSweepResponse | pb.AttributeResponse) -> dict[str, Any]:
    """An event of an experiment as a line of JSON."""
    kind = event.WhichOneof("event") or ""
    message = getattr(event, kind)
    told = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"type": kind, **told}


def experiment_param(field: str) -> str:
    """The parameter of the request that a field of the contract comes from."""
    field = re.sub(r"^metric\.weighted_sum\.", "metric.", field)
    field = re.sub(r"^(metric(?:\.terms\[\d+\]\.metric)?)\.\w+\.(answers|others)(\[\d+\])?(\.\w+)?$", r"\1.\2\3", field)
    field = re.sub(r"^metric\.\w+\.(answers|others)(\[\d+\])?(\.\w+)?$", r"metric.\1\2", field)
    field = re.sub(r"^(paths\[\d+\]\.(senders|receivers)).*$", r"\1", field)
    field = re.sub(r"^(edges\[\d+\])\.cells\.cells\[", r"\1.cells[", field)
    field = re.sub(r"^generation\.sampling\.", "generation.", field)
    field = re.sub(r"^(metric)\.projection\.", r"\1.", field)
    field = re.sub(r"^(grids\[\d+\])\.site(\.\w+)?$", r"\1.component", field)
    return re.sub(r"^limits\.", "", field).replace(".token_ids.ids", "").removesuffix(".text")


def to_nested_lists(values: NDArray[np.float32]) -> list[Any]:
    """Nested lists; null where there is no number."""
    found = np.atleast_1d(values).astype(object)
    found[np.isnan(np.atleast_1d(values))] = None
    return found.tolist()
