"""Trusted hosts and CORS.

A web page of any site can make a browser send requests to 127.0.0.1, and an attacker can point a name of their own
there (DNS rebinding). The gateway therefore checks the Host and Origin headers and returns 403 for others.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope_gateway.http import errors
from neuroscope_gateway.http.json_response import JsonResponse

METHODS = "GET, POST, DELETE, OPTIONS"
EXPOSED_HEADERS = ", ".join(
    (
        "x-request-id",
        "retry-after",
        "accept-ranges",
        "content-length",
        "content-range",
        "etag",
        "x-neuroscope-dtype",
        "x-neuroscope-shape",
        "x-neuroscope-axes",
    )
)
"""Response headers that web pages may read besides the safelisted ones."""
PREFLIGHT_SECONDS = "600"
WILDCARD = "*"


class TrustedOriginMiddleware:
    """Rejects untrusted hosts and origins, answers preflight requests and sets CORS headers."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        rejection = self._rejection(headers, origin)
        if rejection is not None:
            await rejection(scope, receive, send)
            return
        if origin is not None:
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, _with_cors(send, origin))
                return
            send = _with_cors(send, origin)
        await self.app(scope, receive, send)

    def _rejection(self, headers: Headers, origin: str | None) -> Response | None:
        host = headers.get("host", "")
        if WILDCARD not in self.hosts and _hostname(host) not in self.hosts:
            message = f"This gateway does not answer under the host name {host!r}; see its setting allowed_hosts."
            return JsonResponse(errors.error_json(message, code="host_not_allowed"), HTTPStatus.FORBIDDEN)
        if origin is not None and not self._is_allowed(origin, host):
            message = f"Pages of {origin!r} may not call this gateway; see its setting allowed_origins."
            return JsonResponse(errors.error_json(message, code="origin_not_allowed"), HTTPStatus.FORBIDDEN)
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        if WILDCARD in self.origins or origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            _ = parts.port
        except ValueError:
            return False
        if not parts.scheme or not parts.netloc:  # "null" is the origin of sandboxed pages and files
            return False
        return parts.netloc == host or f"{parts.scheme}://{_hostname(parts.netloc)}:*" in self.origins


def _preflight(headers: Headers) -> Response:
    answer = Response(status_code=HTTPStatus.NO_CONTENT)
    answer.headers["Access-Control-Allow-Methods"] = METHODS
    answer.headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
    if wanted := headers.get("access-control-request-headers"):
        answer.headers["Access-Control-Allow-Headers"] = wanted
    if "access-control-request-private-network" in headers:
        answer.headers["Access-Control-Allow-Private-Network"] = "true"
    return answer


def _with_cors(send: Send, origin: str) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            headers.add_vary_header("Origin")
        await send(message)

    return send_with_cors


def _hostname(host: str) -> str:
    """The name without the port, lower case; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()
