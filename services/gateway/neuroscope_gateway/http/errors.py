"""Errors as OpenAI clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry import trace

from neuroscope.errors import MLXIntegrationError, UnauthenticatedError

logger = logging.getLogger(__name__)

INVALID_REQUEST = "invalid_request_error"
RETRY_AFTER_SECONDS = "1"
"""The Retry-After header of 429 and 503: streams end within seconds."""
_TOKEN_REFUSED = "The inference service refuses the gateway's token; see the gateway's setting inference_token."


def error_json(message: str, *, kind: str = INVALID_REQUEST, param: str | None = None, code: str) -> dict[str, Any]:
    """The JSON of an error that the gateway itself detects."""
    return {"error": {"message": _printable(message), "type": kind, "param": param and _printable(param), "code": code}}


def exception_json(error: MLXIntegrationError) -> dict[str, Any]:
    """The JSON of an error of `neuroscope.errors`; also sets the status of the request's span."""
    trace.get_current_span().set_status(trace.StatusCode.ERROR, error.code())
    if isinstance(error, UnauthenticatedError):
        return error_json(_TOKEN_REFUSED, kind="server_error", code="inference_unauthenticated")
    details = error.to_openai()["error"]
    return error_json(details["message"], kind=details["type"], param=details["param"], code=details["code"])


def internal_error_json(error: BaseException) -> dict[str, Any]:
    """The JSON of an unexpected exception: the log has its traceback, the client no detail."""
    logger.error("a request failed", exc_info=error)
    span = trace.get_current_span()
    span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR, type(error).__name__)
    return error_json("The gateway failed; its log says more.", kind="server_error", code="internal")


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()
