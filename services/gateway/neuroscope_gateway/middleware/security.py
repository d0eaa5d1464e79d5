"""Who may call: the Host header, the origins of web pages, the size of a body.

A page of any site can make a browser send requests to 127.0.0.1, and a name that an attacker owns can be made to point
there. So the gateway answers only under its own names, and only pages of allowed origins; others get 403.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope_gateway import errors
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
"""What pages may read of an answer besides what they may always read."""
PREFLIGHT_SECONDS = "600"
WILDCARD = "*"


class SecurityMiddleware:
    """Middleware: refuses foreign hosts, foreign origins and large bodies; answers preflights; sets CORS headers."""

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], origins: Iterable[str], max_body_bytes: int, body_timeout_s: float
    ) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.origins = frozenset(origins)
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refusal = self._refusal(headers, origin)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if origin is not None:
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, _with_cors(send, origin))
                return
            send = _with_cors(send, origin)
        await self.app(scope, _limit_body(receive, self.max_body_bytes, self.body_timeout_s), send)

    def _refusal(self, headers: Headers, origin: str | None) -> Response | None:
        host = headers.get("host", "")
        if WILDCARD not in self.hosts and _hostname(host) not in self.hosts:
            message = f"This gateway does not answer under the host name {host!r}; see its setting allowed_hosts."
            return JsonResponse(errors.error_json(message, code="host_not_allowed"), HTTPStatus.FORBIDDEN)
        if origin is not None and not self._is_allowed(origin, host):
            message = f"Pages of {origin!r} may not call this gateway; see its setting allowed_origins."
            return JsonResponse(errors.error_json(message, code="origin_not_allowed"), HTTPStatus.FORBIDDEN)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_body_bytes:
            answer = JsonResponse(_too_large_json(self.max_body_bytes), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            answer.headers["connection"] = "close"
            return answer
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        if WILDCARD in self.origins or origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            _ = parts.port
        except ValueError:
            return False
        if not parts.scheme or not parts.netloc:  # "null", of a sandboxed page or a file
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
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            headers.add_vary_header("Origin")
        await send(message)

    return sending


def _limit_body(receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Counts a body that came without Content-Length, and waits for a slow one no longer than allowed."""
    received = 0
    deadline_s: float | None = asyncio.get_running_loop().time() + timeout_s  # None: all of it is there

    async def receiving() -> Message:
        nonlocal received, deadline_s
        try:
            async with asyncio.timeout_at(deadline_s):
                message = await receive()
        except TimeoutError:
            told = f"The body had not arrived after {timeout_s:g} s; see the setting body_timeout_seconds."
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, told, {"Connection": "close"}) from None
        if not message.get("more_body"):
            deadline_s = None
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large_json(max_bytes)["error"]["message"])
        return message

    return receiving


def _too_large_json(max_bytes: int) -> dict[str, dict[str, str]]:
    return errors.error_json(
        f"The body is larger than {max_bytes} bytes; see the setting max_body_bytes.", code="request_too_large"
    )


def _hostname(host: str) -> str:
    """The name without the port, lower case; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()
