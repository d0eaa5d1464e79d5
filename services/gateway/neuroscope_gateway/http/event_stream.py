"""Streams of JSON objects: Server-Sent Events as OpenAI sends them, and newline-delimited JSON.

The status is sent before the first object, so a later error is sent as the last object: SSE ends without [DONE], NDJSON
without a line that has a finish_reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import StreamingResponse

from neuroscope.errors import MLXIntegrationError
from neuroscope_gateway.http import errors
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.json_response import dumps

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
SSE_CONTENT: dict[str, Any] = {
    SSE: {
        "schema": {
            "type": "object",
            "description": "One event of the stream; its data is JSON, or [DONE].",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
"""The OpenAPI `content` of Server-Sent Events."""
NDJSON_CONTENT: dict[str, Any] = {NDJSON: {"schema": {"type": "string"}}}
"""The OpenAPI `content` of newline-delimited JSON."""
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
KEEPALIVE_S = 15.0
"""A silent stream sends a comment this often, so that proxies keep it open during a long prefill."""
_KEEPALIVE = b": keepalive\n\n"
_DONE = b"data: [DONE]\n\n"


Objects: TypeAlias = AsyncGenerator[dict[str, Any], None]


async def stream_response(
    request: Request, objects: Objects, frames: Callable[[Objects], AsyncGenerator[bytes, None]], media_type: str
) -> StreamingResponse:
    """Streams objects; waits for the first one, so that an error before it keeps its HTTP status.

    Args:
        request: its disconnect closes the objects.
        objects: JSON objects.
        frames: encodes them: `ndjson_lines`, or one of the SSE encodings.
        media_type: of the frames.
    """
    first = await cancel_on_disconnect(request.receive, anext(objects))
    return StreamingResponse(frames(_prepend(first, objects)), media_type=media_type, headers=STREAM_HEADERS)


async def _prepend(first: dict[str, Any], rest: Objects) -> Objects:
    async with aclosing(rest):
        yield first
        async for each in rest:
            yield each


async def sse_events(objects: Objects) -> AsyncGenerator[bytes, None]:
    """Objects as Server-Sent Events that end with [DONE]."""
    failed = False

    def encode(value: dict[str, Any], is_error: bool) -> bytes:
        nonlocal failed
        failed = is_error
        return b"data: " + dumps(value) + b"\n\n"

    async with aclosing(_sse(objects, encode)) as frames:
        async for frame in frames:
            yield frame
    if not failed:
        yield _DONE


def named_sse_events(
    objects: Objects, error_event: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncGenerator[bytes, None]:
    """Objects as Server-Sent Events named by their `type`, without an end marker.

    Args:
        objects: events, each with a `type`.
        error_event: makes an event from an error's JSON.
    """

    def encode(value: dict[str, Any], is_error: bool) -> bytes:
        event = error_event(value) if is_error else value
        return b"event: " + str(event["type"]).encode() + b"\ndata: " + dumps(event) + b"\n\n"

    return _sse(objects, encode)


async def _sse(objects: Objects, encode: Callable[[dict[str, Any], bool], bytes]) -> AsyncGenerator[bytes, None]:
    """Encoded objects, with comments in silent times; `encode` also gets whether the object is an error."""
    async with aclosing(_with_error(objects)) as items:
        async for item in _with_keepalives(items):
            yield _KEEPALIVE if item is None else encode(*item)


async def ndjson_lines(objects: Objects) -> AsyncGenerator[bytes, None]:
    """Objects as newline-delimited JSON."""
    async with aclosing(_with_error(objects)) as items:
        async for value, _ in items:
            yield dumps(value) + b"\n"


async def _with_error(
    objects: Objects,
) -> AsyncGenerator[tuple[dict[str, Any], bool], None]:
    """Objects with False; the JSON of an error as the last object with True."""
    try:
        async with aclosing(objects):
            async for value in objects:
                yield value, False
    except MLXIntegrationError as error:
        yield errors.exception_json(error), True
    except Exception as error:
        yield errors.internal_error_json(error), True


async def _with_keepalives(
    items: AsyncIterator[tuple[dict[str, Any], bool]],
) -> AsyncGenerator[tuple[dict[str, Any], bool] | None, None]:
    """The items, and None after each KEEPALIVE_S without an item."""
    while True:
        coming = asyncio.ensure_future(anext(items, None))
        try:
            while not (await asyncio.wait((coming,), timeout=KEEPALIVE_S))[0]:
                yield None
        except BaseException:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            raise
        item = coming.result()
        if item is None:
            return
        yield item
