"""Exception handlers of the application.

`neuroscope.errors` has the HTTP status of each error of the services. Errors of HTTP itself are here: unknown routes,
wrong methods, bodies that are not JSON or too large, and fields that fail validation.
"""

from __future__ import annotations

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

from neuroscope.errors import MLXIntegrationError, UnauthenticatedError
from neuroscope.vocabulary.strict_model import error_location, error_reason, param_path
from neuroscope_gateway.http.errors import RETRY_AFTER_SECONDS, error_json, exception_json
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.schemas.unsupported import UNSUPPORTED_PARAMETER

CLIENT_CLOSED_REQUEST = 499
_RETRYABLE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_VALIDATION_CODES = {
    UNSUPPORTED_PARAMETER: UNSUPPORTED_PARAMETER,
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_parameter",
}
_CODES = {404: "unknown_route", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}


def add_exception_handlers(app: FastAPI) -> None:
    """Registers the handlers."""
    app.add_exception_handler(MLXIntegrationError, _neuroscope_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def _neuroscope_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MLXIntegrationError)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if error.http_status in _RETRYABLE else None
    # The refused token is the gateway's own; its client cannot fix that.
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
    elif status == HTTPStatus.BAD_REQUEST:  # FastAPI raises it for a body that is not UTF-8
        message = "The body is not JSON in UTF-8."
    code = _CODES.get(status, "invalid_json")
    return JsonResponse(error_json(message, code=code), status, headers=headers)


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found: Sequence[Mapping[str, Any]] = error.errors()
    first = found[0]
    kind, where = str(first["type"]), error_location(first)
    if kind == "json_invalid":
        message = f"The body is not JSON: {first['ctx']['error']} at character {where[-1]}."
        return JsonResponse(error_json(message, code="invalid_json"), HTTPStatus.BAD_REQUEST)
    if where == ("body",):
        return JsonResponse(error_json(_body_message(request, first), code="invalid_request"), HTTPStatus.BAD_REQUEST)
    param = param_path(where[1:])
    code = _VALIDATION_CODES.get(kind, "invalid_request")
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return JsonResponse(
        error_json(f"{param}: {error_reason(first)}{more}", param=param, code=code), HTTPStatus.BAD_REQUEST
    )


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes of a path; Starlette names those of the first route only."""
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
