"""Every error as OpenAI's clients read it: {"error": {"message", "type", "param", "code"}}.

The statuses are those of `neuroscope.errors`; what HTTP adds is here: unknown routes, wrong methods, bodies that are no
JSON or too large, fields that fail validation, and the guard that turns a fault of ours into a 500 with a log entry.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuroscope.errors import MLXIntegrationError, UnauthenticatedError
from neuroscope.vocabulary import strict_model as strict
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.schemas.unsupported import UNSUPPORTED_PARAMETER

logger = logging.getLogger(__name__)

INVALID_REQUEST = "invalid_request_error"
CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_SECONDS = "1"
"""When a client may ask again after 429 and 503: streams end within seconds, and a service that drains is replaced."""
_RETRYABLE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_VALIDATION_CODES = {
    UNSUPPORTED_PARAMETER: UNSUPPORTED_PARAMETER,
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_parameter",
}
_TOKEN_REFUSED = "The inference service refuses the gateway's token; see the gateway's setting inference_token."
_CODES = {404: "unknown_route", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}


def error_json(message: str, *, kind: str = INVALID_REQUEST, param: str | None = None, code: str) -> dict[str, Any]:
    """The JSON of an error that the gateway itself found."""
    return {"error": {"message": _printable(message), "type": kind, "param": param and _printable(param), "code": code}}


def exception_json(error: MLXIntegrationError) -> dict[str, Any]:
    """The JSON of an error of the tree; also notes it in the request's span."""
    trace.get_current_span().set_status(trace.StatusCode.ERROR, error.code())
    if isinstance(error, UnauthenticatedError):
        return error_json(_TOKEN_REFUSED, kind="server_error", code="inference_unauthenticated")
    details = error.to_openai()["error"]
    return error_json(details["message"], kind=details["type"], param=details["param"], code=details["code"])


def internal_error_json(error: BaseException) -> dict[str, Any]:
    """The JSON of a fault of ours, which goes to the log in full and to the client without its inside."""
    logger.error("a request failed", exc_info=error)
    span = trace.get_current_span()
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, type(error).__name__)
    return error_json("The gateway failed; its log says more.", kind="server_error", code="internal")


def add_exception_handlers(app: FastAPI) -> None:
    """Registers the handlers of an application."""
    app.add_exception_handler(MLXIntegrationError, _neuroscope_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)


class ServerErrorMiddleware:
    """Middleware: answers 500 in JSON where nothing else handled an exception and no answer has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def tracking(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, tracking)
        except Exception as error:
            answer = JsonResponse(internal_error_json(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            if started:  # the status is out; the connection breaks off, which the client sees
                raise
            await answer(scope, receive, send)


def _neuroscope_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MLXIntegrationError)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if error.http_status in _RETRYABLE else None
    # A token that inference refuses is the gateway's own: nothing that its caller sends would help.
    status = HTTPStatus.BAD_GATEWAY if isinstance(error, UnauthenticatedError) else error.http_status
    return JsonResponse(exception_json(error), status, headers=headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    headers = dict(error.headers or {})
    message = error.detail
    if status == HTTPStatus.NOT_FOUND:
        message = f"There is no {request.method} {request.url.path}; /docs lists what there is."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        message = f"{request.url.path} does not take {request.method}; it takes {headers['Allow']}."
    elif status == HTTPStatus.BAD_REQUEST:  # FastAPI's, of a body that raised something other than a JSON error
        message = "The body is not JSON in UTF-8."
    code = _CODES.get(status, "invalid_json")
    return JsonResponse(error_json(message, code=code), status, headers=headers)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: Sequence[Mapping[str, Any]] = error.errors()
    first = found[0]
    kind, where = str(first["type"]), strict.error_location(first)
    if kind == "json_invalid":
        message = f"The body is not JSON: {first['ctx']['error']} at character {where[-1]}."
        return JsonResponse(error_json(message, code="invalid_json"), HTTPStatus.BAD_REQUEST)
    if where == ("body",):
        return JsonResponse(error_json(_body_message(request, first), code="invalid_request"), HTTPStatus.BAD_REQUEST)
    param = strict.param_path(where[1:])
    code = _VALIDATION_CODES.get(kind, "invalid_request")
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return JsonResponse(
        error_json(f"{param}: {strict.error_reason(first)}{more}", param=param, code=code), HTTPStatus.BAD_REQUEST
    )


def _allowed_methods(request: Request) -> list[str]:
    """The methods that the routes of a path take together; Starlette names those of the first route only."""
    found: set[str] = set()
    for path, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(path))
        if re.fullmatch(pattern, request.url.path):
            found.update(method.upper() for method in operations)
    return sorted(found)


def _body_message(request: Request, error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "A body in JSON is required."
    content_type = request.headers.get("content-type", "")
    if isinstance(error.get("input"), bytes):
        return f"The body must be sent with Content-Type: application/json, not {content_type!r}."
    return f"The body does not fit: {error['msg']}"


def _disconnected(request: Request, error: Exception) -> Response:
    trace.get_current_span().set_status(trace.StatusCode.ERROR, "client disconnected")
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()
