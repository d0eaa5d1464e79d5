"""GET /v1/traces/{trace_id}: the spans of a recent request in all services."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from neuroscope.errors import NeuroScopeIntegrationError, UnknownIdError
from neuroscope.tracing import telemetry
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep, InferenceDep

router = APIRouter(tags=["traces"], responses=ERROR_RESPONSES)

TraceId = Annotated[str, Path(pattern="^[0-9a-fA-F]{32}$", description="W3C trace id, 32 hexadecimal digits")]
BINARY = "application/octet-stream"


@router.get(
    "/v1/traces/{trace_id}",
    response_class=Response,
    responses={200: {"description": "TracesData", "content": {BINARY: {"schema": {"type": "string"}}}}},
)
async def get_trace(trace_id: TraceId, client: InferenceDep, analysis: AnalysisDep) -> Response:
    """Returns a serialized `opentelemetry.proto.trace.v1.TracesData`.

    A trace is recorded if the request has a sampled `traceparent`, or a collector is configured.
    """
    parts: list[bytes] = []
    unknown: UnknownIdError | None = None
    try:
        parts.append(telemetry.recent_trace(trace_id))
    except UnknownIdError as error:
        unknown = error
    try:
        parts.append(await client.trace(trace_id))
    except UnknownIdError:
        if unknown is not None:
            raise unknown from None
    with suppress(UnknownIdError, NeuroScopeIntegrationError):  # it took no part in the trace, or is not running
        parts.append(await analysis.trace(trace_id))
    return Response(telemetry.merge(parts).SerializeToString(), media_type=BINARY)
