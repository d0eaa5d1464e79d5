"""Authentication: TLS with and without client certificates, and a bearer token."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from neuroscope.errors import InvalidRequestError, UnauthenticatedError
from neuroscope.wire.endpoint import AUTHORIZATION, BEARER, check_token, read_token
from neuroscope.wire.status import to_grpc_status
from neuroscope.wire.tls import read_pem
from neuroscope_serving.peer import is_local
from neuroscope_serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_OPEN = "/grpc.health.v1.Health/"
"""Health checks need no token: container platforms do not know it."""


def credentials(settings: ServingSettings) -> grpc.ServerCredentials | None:
    """Credentials of the port; None: plain TCP.

    Raises:
        InvalidRequestError: the files do not match, or cannot be read.
    """
    if not settings.tls_certificate and not settings.tls_key:
        if settings.tls_client_ca:
            raise InvalidRequestError("tls_client_ca needs tls_certificate", field="tls_client_ca")
        return None
    if not settings.tls_certificate or not settings.tls_key:
        raise InvalidRequestError("tls_certificate and tls_key need each other", field="tls_key")
    pair = read_pem(settings.tls_key, "tls_key"), read_pem(settings.tls_certificate, "tls_certificate")
    authority = read_pem(settings.tls_client_ca, "tls_client_ca") if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def token(settings: ServingSettings) -> str:
    """The token that calls must carry; empty: none.

    Raises:
        InvalidRequestError: both settings are given, or the file is empty.
    """
    given = settings.token.get_secret_value()
    if given and settings.token_file:
        raise InvalidRequestError("token and token_file exclude each other", field="token_file")
    if settings.token_file:
        return read_token(settings.token_file)
    check_token(given)
    return given


def warn_if_exposed(settings: ServingSettings) -> None:
    """Logs a warning if others can use the service or read its traffic."""
    if settings.host == "localhost" or is_local(settings.host):
        return
    if not settings.token.get_secret_value() and not settings.token_file and not settings.tls_client_ca:
        _log.warning("anyone who can reach %s can use this service: set a token, or tls_client_ca", settings.host)
    elif not settings.tls_certificate:
        _log.warning("tokens and tensors travel unencrypted to %s: set tls_certificate and tls_key", settings.host)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Rejects calls without the token before the request is read."""

    def __init__(self, wanted: str) -> None:
        self._wanted = f"{BEARER}{wanted}".encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, or one that rejects it."""
        if handler_call_details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata
        found = [value for key, value in metadata or () if key == AUTHORIZATION]
        if any(
            hmac.compare_digest(value.encode() if isinstance(value, str) else value, self._wanted) for value in found
        ):
            return await continuation(handler_call_details)
        reason = "the token is not this service's" if found else "this service wants a token"
        return _refusal(f"{reason}: Client(token=...), neuroscope --token, or NEUROSCOPE_TOKEN")


def _refusal(message: str) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort_with_status(to_grpc_status(UnauthenticatedError(message, field=AUTHORIZATION)))

    return grpc.unary_unary_rpc_method_handler(refuse)
