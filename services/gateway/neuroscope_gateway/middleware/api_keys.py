"""Who is let in: clients with a key, where keys are set, and so many requests at one time."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from neuroscope_gateway import errors
from neuroscope_gateway.http.json_response import JsonResponse

PROBE_PATHS = frozenset({"/health"})
"""What probes ask for: without a key, and without being counted."""


class ApiKeyMiddleware:
    """Middleware: answers 401 to a request without one of the keys; lets everybody in where there are none."""

    def __init__(self, app: ASGIApp, *, keys: Iterable[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http" or not self._keys or scope["path"] in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1", "replace")
        if kind.lower() == "bearer" and any([hmac.compare_digest(given, known) for known in self._keys]):  # noqa: C419
            await self.app(scope, receive, send)
            return
        message = "Incorrect API key." if given else "An API key is required: send Authorization: Bearer KEY."
        answer = errors.error_json(message, code="invalid_api_key")
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        await JsonResponse(answer, HTTPStatus.UNAUTHORIZED, headers=headers)(scope, receive, send)


class ConcurrencyLimitMiddleware:
    """Middleware: so many requests at one time, counted from their headers to the end of their answers."""

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
