"""API keys, as OpenAI clients send them."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from neuroscope_gateway.http import errors
from neuroscope_gateway.http.json_response import JsonResponse

PROBE_PATHS = frozenset({"/health"})
"""Paths of health probes: they need no key and do not count as requests."""


class ApiKeyMiddleware:
    """Returns 401 to a request without a valid key; without configured keys every request passes."""

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
