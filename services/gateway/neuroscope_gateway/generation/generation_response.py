"""HTTP responses of one generation: a JSON object, or a stream of frames."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neuroscope_gateway.generation.text_generation import TextGeneration
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import STREAM_HEADERS
from neuroscope_gateway.http.json_response import JsonResponse


async def generation_response(
    request: Request, generation: TextGeneration, answer: Coroutine[Any, Any, dict[str, Any]]
) -> Response:
    """Runs a generation to its end and returns one JSON object."""

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
    """Starts a generation, so that an error keeps its HTTP status, then streams its frames."""
    try:
        await cancel_on_disconnect(request.receive, generation.start())
    except BaseException:
        await generation.close()
        raise
    return GenerationStreamingResponse(generation, frames, media_type)


class GenerationStreamingResponse(Response):
    """Sends frames as they come; cancels the generation when the client disconnects."""

    def __init__(self, generation: TextGeneration, frames: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(media_type=media_type, headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._generation = generation
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response."""
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
