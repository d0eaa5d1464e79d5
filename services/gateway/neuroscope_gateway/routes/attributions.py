"""POST /v1/experiments/attributions: gradient-based attribution."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.aio import AsyncClient
from neuroscope.experiments.attribution_result import AttributionResult
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import NDJSON, NDJSON_CONTENT, ndjson_lines, stream_response
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.http.message_json import event_json
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.routes.experiment_params import experiment_param
from neuroscope_gateway.schemas import attributions as schemas
from neuroscope_gateway.schemas.arrays import NamedArray

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)


@router.post(
    "/attributions",
    response_model=schemas.AttributionResponse,
    responses={200: {"description": "The scores", "content": NDJSON_CONTENT}},
)
async def attribute(body: schemas.AttributionRequest, request: Request, client: InferenceDep) -> Response:
    """Runs an attribution; with `stream`, one line of JSON for each event. A disconnect cancels it."""
    result = AttributionResult(body.to_attribution())
    if not body.stream:
        return JsonResponse(await cancel_on_disconnect(request.receive, _attribution_json(client, result, body.method)))
    return await stream_response(request, _events(client, result, body.method), ndjson_lines, NDJSON)


async def _attribution_json(client: AsyncClient, result: AttributionResult, method: str) -> dict[str, Any]:
    async with aclosing(_events(client, result, method)) as events:
        async for _ in events:
            pass
    return _result_json(result, method)


async def _events(client: AsyncClient, result: AttributionResult, method: str) -> AsyncGenerator[dict[str, Any], None]:
    """The events of an attribution as JSON while they fill the result, then its scores."""
    with rest_params(_attribution_param):
        async with aclosing(client.attribution_events(result)) as events:
            async for event in events:
                yield event_json(event)
    result.finish()
    yield {"type": "scores", **_result_json(result, method)}


def _attribution_param(field: str) -> str:
    return re.sub(r"^nodes\.sites(\[\d+\])(\..*)?$", r"sites\1", experiment_param(field))


def _result_json(result: AttributionResult, method: str) -> dict[str, Any]:
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    baselines = result.to_json()
    return schemas.AttributionResponse(
        model=plan.model_id,
        metric=result.attribution.request.metric.WhichOneof("kind") or "",
        method=method,
        steps=plan.steps,
        clean=baselines["clean"],
        corrupted=baselines["corrupted"],
        scores=[NamedArray.of(name, result[name]) for name in result.names],
        completeness=[
            schemas.PairCompleteness(pair=total.pair, attributed=total.attributed, change=total.change)
            for total in result.completeness
        ],
        elapsed_seconds=end.elapsed_seconds,
        forward_passes=end.forward_passes,
    ).model_dump()
