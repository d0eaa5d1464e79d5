"""POST /v1/experiments/attributions: what the gradient of a metric says of many places at once."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from neuroscope.aio import AsyncClient
from neuroscope.errors import MLXIntegrationError
from neuroscope.experiments.attribution_result import AttributionResult
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.experiments import chained, nested, param_of, told
from neuroscope_gateway.json import JsonResponse
from neuroscope_gateway.schemas import attributions as schemas
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import NDJSON, ndjson

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERRORS)


@router.post(
    "/attributions",
    response_model=schemas.Attributed,
    responses={200: {"description": "The scores", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def attribute(body: schemas.AttributionRequest, request: Request, client: Client) -> Response:
    """Runs an attribution; answers with all scores or, with `stream`, a line for every event. Leaving cancels it."""
    result = AttributionResult(body.to_attribution())
    if not body.stream:
        return JsonResponse(await while_connected(request.receive, _whole(client, result, body.method)))
    events = _events(client, result, body.method)
    first = await while_connected(request.receive, anext(events))  # so that a refusal still has its status
    lines = ndjson(chained(first, events))
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def _whole(client: AsyncClient, result: AttributionResult, method: str) -> dict[str, Any]:
    async with aclosing(_events(client, result, method)) as events:
        async for _ in events:
            pass
    return _found(result, method)


async def _events(client: AsyncClient, result: AttributionResult, method: str) -> AsyncGenerator[dict[str, Any], None]:
    """The events of an attribution as JSON, then its scores; the result is filled on the way."""
    try:
        async with aclosing(client.attribution_events(result)) as events:
            async for event in events:
                yield told(event)
    except MLXIntegrationError as error:
        error.field = re.sub(r"^nodes\.sites(\[\d+\])(\..*)?$", r"sites\1", param_of(error.field))
        raise
    result.finish()
    yield {"type": "scores", **_found(result, method)}


def _found(result: AttributionResult, method: str) -> dict[str, Any]:
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    baselines = result.to_json()
    return schemas.Attributed(
        model=plan.model_id,
        metric=result.attribution.request.metric.WhichOneof("kind") or "",
        method=method,
        steps=plan.steps,
        clean=baselines["clean"],
        corrupted=baselines["corrupted"],
        scores=[
            schemas.AttributedScores(
                name=name,
                dims=list(result[name].dims),
                coords={dim: list(values) for dim, values in result[name].coords.items()},
                values=nested(result[name].values),
            )
            for name in result.names
        ],
        completeness=[
            schemas.AttributedPair(pair=total.pair, attributed=total.attributed, change=total.change)
            for total in result.completeness
        ],
        elapsed_seconds=end.elapsed_seconds,
        forward_passes=end.forward_passes,
    ).model_dump()
