"""gRPC handlers for the methods of a descriptor. Malformed requests and failures become statuses with a message."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import Rpc
from neuroscope.wire.status import to_grpc_status

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_MAKERS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


@dataclass(frozen=True, slots=True)
class MalformedRequest:
    """A request that cannot be parsed. Without this error grpc.aio would answer UNKNOWN."""

    reason: str


def handler(rpc: Rpc, answer: Callable[[Any, Context], Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of one method.

    Args:
        rpc: the method.
        answer: receives the request (or an iterator of requests) and the context; returns the response, or writes
            responses to the context. Errors of `neuroscope.errors` become their status; others become INTERNAL and
            are logged.
    """

    async def answered(request: Any, context: Context) -> Any:
        async with _errors_as_status(context):
            return await answer(_each_well_formed(request) if rpc.streams_requests else _well_formed(request), context)

    return _MAKERS[rpc.streams_requests, rpc.streams_responses](answered, _reader(rpc), rpc.serialize)


@asynccontextmanager
async def _errors_as_status(context: Context) -> AsyncGenerator[None, None]:
    try:
        yield
    except MLXIntegrationError as error:
        await context.abort_with_status(to_grpc_status(error))
    except Exception as error:
        _log.exception("a call failed")
        await context.abort_with_status(to_grpc_status(MLXIntegrationError(f"internal error: {error!r}")))


def _reader(rpc: Rpc) -> Callable[[bytes], Event | MalformedRequest]:
    decode = rpc.deserialize_request

    def read(raw: bytes) -> Event | MalformedRequest:
        try:
            return decode(raw)
        except DecodeError as error:
            return MalformedRequest(f"the request is not a {rpc.request.DESCRIPTOR.name}: {error}")

    return read


def _well_formed(request: Event | MalformedRequest) -> Event:
    if isinstance(request, MalformedRequest):
        raise InvalidRequestError(request.reason, field="request")
    return request


async def _each_well_formed(requests: AsyncIterator[Event | MalformedRequest]) -> AsyncGenerator[Event, None]:
    async for request in requests:
        yield _well_formed(request)
