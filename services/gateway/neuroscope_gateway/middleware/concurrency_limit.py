"""The limit of concurrent requests."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from neuroscope_gateway.http import errors
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.middleware.api_keys import PROBE_PATHS


class ConcurrencyLimitMiddleware:
    """Returns 503 above `max_requests` concurrent requests; a request counts until its response has ended."""

    def __init__(self, app: ASGIApp, *, max_requests: int) -> None:
        self.app = app
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        if self._running >= self._max_requests:
            message = f"{self._running} requests are running; see the setting max_concurrent_requests."
            answer = errors.error_json(message, kind="server_error", code="overloaded")
            headers = {"Retry-After": errors.RETRY_AFTER_SECONDS, "Connection": "close"}
            await JsonResponse(answer, HTTPStatus.SERVICE_UNAVAILABLE, headers=headers)(scope, receive, send)
            return
        self._running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._running -= 1
