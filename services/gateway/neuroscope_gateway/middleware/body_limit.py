"""Limits on request bodies: their size, and how long they may take to arrive."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope_gateway.http import errors
from neuroscope_gateway.http.json_response import JsonResponse


class BodyLimitMiddleware:
    """Returns 413 for a body above `max_bytes`, and 408 for one that has not arrived after `timeout_s` seconds."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            body = errors.error_json(self._too_large(), code="request_too_large")
            response = JsonResponse(body, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, headers={"Connection": "close"})
            await response(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        """Counts a body without Content-Length, and applies the timeout."""
        received = 0
        deadline_s: float | None = asyncio.get_running_loop().time() + self.timeout_s  # None: the body is complete

        async def limited() -> Message:
            nonlocal received, deadline_s
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                detail = f"The body had not arrived after {self.timeout_s:g} s; see the setting body_timeout_seconds."
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail, {"Connection": "close"}) from None
            if not message.get("more_body"):
                deadline_s = None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"The body is larger than {self.max_bytes} bytes; see the setting max_body_bytes."
