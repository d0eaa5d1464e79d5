"""The HTTP response of an analysis: its result as JSON, its events as a stream, or a picture."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from neuroscope.analysis import AnalysisResult, AsyncAnalysisClient
from neuroscope.v1 import progress_pb2
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import SSE, SSE_CONTENT, named_sse_events, stream_response
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.rest_params import rest_params

_PICTURE_MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "html": "text/html"}
ANALYSIS_CONTENT: dict[str, Any] = SSE_CONTENT | {
    media: {"schema": {"type": "string"}, "example": "a picture"} for media in _PICTURE_MEDIA_TYPES.values()
}
"""The OpenAPI `content` of analyses besides JSON."""
ResultT = TypeVar("ResultT", bound=AnalysisResult[Any, Any, Any, Any])
PlanT = TypeVar("PlanT", bound=Message)
EndT = TypeVar("EndT", bound=Message)


@dataclass(frozen=True, slots=True)
class AnalysisJson(Generic[ResultT]):
    """How one kind of analysis is written as JSON."""

    event: Callable[[Any], dict[str, Any]]
    """An event that is neither progress nor the result."""
    result: Callable[[ResultT], dict[str, Any]]
    """The finished result."""
    param: Callable[[str], str]
    """The request's parameter for a field of the contract, in errors."""


def plan_and_end(result: AnalysisResult[Any, PlanT, Any, EndT]) -> tuple[PlanT, EndT]:
    """The plan and the end of a finished result."""
    assert result.plan is not None
    assert result.end is not None
    return result.plan, result.end


async def analysis_response(
    client: AsyncAnalysisClient,
    result: ResultT,
    json: AnalysisJson[ResultT],
    request: Request,
    *,
    stream: bool,
    format: str | None = None,
) -> Response:
    """Runs an analysis; a client that disconnects cancels it.

    Args:
        client: of the analysis service.
        result: empty, with the request of the analysis; the run fills it.
        json: writes events and result.
        request: the HTTP request.
        stream: returns every event as Server-Sent Events instead of the result.
        format: returns a picture of the result: png, svg, pdf or html.
    """
    events = _events(client, result, json)
    if stream:
        encode = partial(named_sse_events, error_event=lambda error: {"type": "error", **error})
        return await stream_response(request, events, encode, SSE)
    async with aclosing(events):
        last = await cancel_on_disconnect(request.receive, _last_event(events))
    if format is None:
        return JsonResponse({name: value for name, value in last.items() if name != "type"})
    return Response(await asyncio.to_thread(_picture, result, format), media_type=_PICTURE_MEDIA_TYPES[format])


def _picture(result: Any, format: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"picture.{format}")
        result.plot(path)
        return path.read_bytes()


async def _last_event(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async for event in events:
        last = event
    return last


async def _events(
    client: AsyncAnalysisClient, result: ResultT, json: AnalysisJson[ResultT]
) -> AsyncGenerator[dict[str, Any], None]:
    """The events as JSON, while they fill the result."""
    with rest_params(json.param):
        async with aclosing(client.events(result)) as events:
            async for event in events:
                match event.WhichOneof("event"):
                    case "progress":
                        yield {"type": "progress", **_progress_json(event.progress)}
                    case "result":
                        yield {"type": "result", **json.result(result)}
                    case _:
                        yield json.event(event)
    result.finish()


def _progress_json(progress: progress_pb2.AnalysisProgress) -> dict[str, Any]:
    return {
        "stage": progress.stage,
        "done": progress.done,
        "count": progress.count,
        "elapsed_seconds": progress.elapsed_seconds,
        **({"remaining_seconds": progress.remaining_seconds} if progress.HasField("remaining_seconds") else {}),
    }
