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
from neuroscope.errors import MLXIntegrationError
from neuroscope.experiments import Experiment, SweepResult
from neuroscope.experiments.patching import METHODS
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.json import JsonResponse
from neuroscope_gateway.schemas import experiments as schemas
from neuroscope_gateway.service import ERRORS, Client
from neuroscope_gateway.streaming import NDJSON, ndjson

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERRORS)
_METHOD_NAMES = {number: name for name, number in METHODS.items()}


@router.post(
    "/sweeps",
    response_model=schemas.Sweep,
    responses={200: {"description": "The values", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def run_sweep(body: schemas.SweepRequest, request: Request, client: Client) -> Response:
    """Runs a sweep; answers with all values or, with `stream`, a line for every event. Leaving cancels it."""
    result = SweepResult(Experiment(body.to_message()))
    if not body.stream:
        return JsonResponse(await while_connected(request.receive, _whole(client, result)))
    events = _events(client, result)
    first = await while_connected(request.receive, anext(events))  # so that a refusal still has its status
    lines = ndjson(chained(first, events))
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def _whole(client: AsyncClient, result: SweepResult) -> dict[str, Any]:
    async with aclosing(_events(client, result)) as events:
        async for _ in events:
            pass
    result.finish()
    plan, end = result.plan, result.end
    assert plan is not None
    assert end is not None
    baselines = result.to_json()
    return schemas.Sweep(
        model=plan.model_id,
        metric=result.experiment.request.metric.WhichOneof("kind") or "",
        method=_METHOD_NAMES[plan.method],  # type: ignore[arg-type]
        reason=plan.reason,
        clean=baselines["clean"],
        corrupted=baselines["corrupted"],
        grids=[
            schemas.SweptGrid(
                name=name,
                dims=list(result[name].dims),
                coords={dim: list(values) for dim, values in result[name].coords.items()},
                values=_nested(result[name].values),
            )
            for name in result.names
        ],
        elapsed_seconds=end.elapsed_seconds,
    ).model_dump()


async def _events(client: AsyncClient, result: SweepResult) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a sweep as JSON; the result is filled on the way."""
    try:
        async with aclosing(client.sweep_events(result)) as events:
            async for event in events:
                yield told(event)
    except MLXIntegrationError as error:
        error.field = param_of(error.field)
        raise


async def chained(
    first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[dict[str, Any], None]:
    """The first event and the rest."""
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


def told(event: pb.RunSweepResponse | pb.AttributeResponse) -> dict[str, Any]:
    """An event of an experiment as a line of JSON."""
    kind = event.WhichOneof("event") or ""
    message = getattr(event, kind)
    told = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"type": kind, **told}


def param_of(field: str) -> str:
    """The parameter of the request that a field of the contract comes from."""
    field = re.sub(r"^metric\.\w+\.(answers|others)(\[\d+\])?(\.\w+)?$", r"metric.\1\2", field)
    field = re.sub(r"^(grids\[\d+\])\.site(\.\w+)?$", r"\1.component", field)
    return re.sub(r"^limits\.", "", field).replace(".token_ids.ids", "").removesuffix(".text")


def _nested(values: NDArray[np.float32]) -> list[Any]:
    return np.atleast_1d(values).tolist()
