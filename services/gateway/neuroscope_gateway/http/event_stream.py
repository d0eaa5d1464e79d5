"""Streamed answers: Server-Sent Events as OpenAI sends them, and newline-delimited JSON.

An error after the first byte has no status left to be told by, so it comes as an object of its own, and the stream ends
there: SSE without [DONE], NDJSON without a line that has a finish_reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neuroscope.errors import MLXIntegrationError
from neuroscope_gateway import errors
from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.json_response import JsonResponse, dumps

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
"""Server-Sent Events, for OpenAPI."""
KEEPALIVE_S = 15.0
"""A comment is sent when a stream has been silent this long, as in a long prefill, so that proxies keep it open."""
_KEEPALIVE = b": keepalive\n\n"
_DONE = b"data: [DONE]\n\n"


async def generation_response(
    request: Request, generation: TextGeneration, answer: Coroutine[Any, Any, dict[str, Any]]
) -> Response:
    """Runs a turn to its end and answers with one JSON object."""

    async def run() -> dict[str, Any]:
        await generation.start()
        return await answer

    try:
        return JsonResponse(await cancel_on_disconnect(request.receive, run()))
    finally:
        answer.close()
        await generation.close()


async def generation_stream_response(
    request: Request, generation: TextGeneration, frames: AsyncGenerator[bytes, None], media_type: str
) -> Response:
    """Begins a turn, so that a refusal still has its HTTP status, and answers with its frames."""
    try:
        await cancel_on_disconnect(request.receive, generation.start())
    except BaseException:
        await generation.close()
        raise
    return GenerationStreamingResponse(generation, frames, media_type)


class GenerationStreamingResponse(Response):
    """Sends frames as they come, watches for the client to leave, and closes the turn whatever happens."""

    def __init__(self, generation: TextGeneration, frames: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request."""
        try:
            await cancel_on_disconnect(receive, self._send(send))
        except ClientDisconnect:
            trace.get_current_span().set_status(trace.StatusCode.ERROR, "client disconnected")
        finally:
            await self._generation.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def sse_events(objects: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """Objects as Server-Sent Events, [DONE] at their end."""
    failed = False
    async with aclosing(_with_error(objects)) as told:
        async for item in _with_keepalives(told):
            if item is None:
                yield _KEEPALIVE
                continue
            value, failed = item
            yield b"data: " + dumps(value) + b"\n\n"
    if not failed:
        yield _DONE


async def named_sse_events(
    objects: AsyncGenerator[dict[str, Any], None], failed: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncGenerator[bytes, None]:
    """Objects as Server-Sent Events that are named by their `type`; nothing marks their end.

    Args:
        objects: events, each with a `type`.
        failed: makes an event of an error's JSON.
    """
    async with aclosing(_with_error(objects)) as told:
        async for item in _with_keepalives(told):
            if item is None:
                yield _KEEPALIVE
                continue
            value, is_error = item
            event = failed(value) if is_error else value
            yield b"event: " + str(event["type"]).encode() + b"\ndata: " + dumps(event) + b"\n\n"


async def ndjson_lines(objects: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """Objects as lines."""
    async with aclosing(_with_error(objects)) as told:
        async for value, _ in told:
            yield dumps(value) + b"\n"


async def _with_error(
    objects: AsyncGenerator[dict[str, Any], None],
) -> AsyncGenerator[tuple[dict[str, Any], bool], None]:
    """Every object with False; an error, if one comes, as the last object with True."""
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
    """The items, and None whenever the next one has been awaited for KEEPALIVE_S."""
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
