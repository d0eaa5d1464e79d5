"""The gateway's JSON errors as the errors of the tree; `MLXIntegrationError.to_openai` is the other direction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from neuroscope import errors
from neuroscope.errors import MLXIntegrationError

# What a status means where the code is one of the gateway's own, or another server's.
_BY_STATUS: dict[int, type[MLXIntegrationError]] = {
    HTTPStatus.BAD_REQUEST: errors.InvalidRequestError,
    HTTPStatus.UNAUTHORIZED: errors.UnauthenticatedError,
    HTTPStatus.FORBIDDEN: errors.PermissionDeniedError,
    HTTPStatus.NOT_FOUND: errors.UnknownIdError,
    HTTPStatus.METHOD_NOT_ALLOWED: errors.NotImplementedByEngineError,
    HTTPStatus.REQUEST_TIMEOUT: errors.DeadlineExceededError,
    HTTPStatus.CONFLICT: errors.IdTakenError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: errors.ResourceExhaustedError,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: errors.InvalidRequestError,
    HTTPStatus.TOO_MANY_REQUESTS: errors.ResourceExhaustedError,
    HTTPStatus.NOT_IMPLEMENTED: errors.NotImplementedByEngineError,
    HTTPStatus.BAD_GATEWAY: errors.NeuroScopeIntegrationError,
    HTTPStatus.SERVICE_UNAVAILABLE: errors.NeuroScopeIntegrationError,
    HTTPStatus.GATEWAY_TIMEOUT: errors.DeadlineExceededError,
}
_UNKNOWN_ROUTE = "unknown_route"
_SHOWN = 200  # characters of a body that is no error of ours


def from_response(status: int, body: bytes, url: str) -> MLXIntegrationError:
    """The error of an answer that has an error's status."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if is_error(answer):
        return from_body(answer, status)
    shown = body.decode("utf-8", "replace")[:_SHOWN]
    cls = _BY_STATUS.get(status, errors.NeuroScopeIntegrationError)
    return cls(f"{url} answers {status}, and not as the gateway does: {shown}")


def from_body(body: Any, status: int | None = None) -> MLXIntegrationError:
    """The error of `{"error": {"message", "type", "param", "code"}}`.

    Args:
        body: a body of which `is_error` is true.
        status: of the answer; None in the middle of a stream, where there is none.
    """
    told = cast("Mapping[str, Any]", body["error"])
    message, code, param = str(told.get("message", "")), str(told.get("code", "")), str(told.get("param") or "")
    named = {cls.code(): cls for cls in errors.error_classes().values()}
    if code == _UNKNOWN_ROUTE:  # an older gateway, or another path
        return errors.NotImplementedByEngineError(message, field=param)
    cls = named.get(code)
    if cls is None or cls is MLXIntegrationError:  # `internal` is the code of errors without a reason of their own
        cls = MLXIntegrationError if status is None else _BY_STATUS.get(status, MLXIntegrationError)
    return cls(message, field=param)


def is_error(body: Any) -> bool:
    """Whether a body is that of an error."""
    return isinstance(body, dict) and isinstance(cast("dict[str, Any]", body).get("error"), dict)
