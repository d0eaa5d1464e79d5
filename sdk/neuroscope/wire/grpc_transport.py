"""Transports over gRPC: `GrpcTransport` uses synchronous gRPC, `AsyncGrpcTransport` uses grpc.aio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from neuroscope.errors import StreamingError
from neuroscope.wire.codec import Event
from neuroscope.wire.endpoint import Endpoint
from neuroscope.wire.grpc_stream import AsyncGrpcStream, GrpcStream, response_deserializer, translate_error
from neuroscope.wire.rpc import RPCS, Rpc
from neuroscope.wire.shared_memory_client import MappingPool, SharedMemoryReader

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# gRPC retries only calls that change nothing at the service.
_RETRIED = ("ListModels", "GetModel", "Tokenize", "Detokenize", "ListHooks", "EstimateCapture", "GetCapture",
            "ListCaptures", "GetTrace", "GetWorkload")  # fmt: skip
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": RPCS[name].service, "method": name} for name in _RETRIED],
            "retryPolicy": {
                "maxAttempts": 3,  # half a second in all, so a missing service is reported within one
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
KEEPALIVE_MS = 30_000
"""Interval of keepalive pings while calls run. Services disconnect clients that ping every 10 s or more often."""
KEEPALIVE_TIMEOUT_MS = 15_000
"""Without an answer to a ping for this long, calls of the connection end with UNAVAILABLE."""
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # the effective one; a minute by default
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a restarted service is found within about a second
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]
# Reads on the calling thread: a quarter less CPU time per GB.
_SYNC_OPTIONS = [*_OPTIONS, ("SingleThreadedUnaryStream", 1)]


class GrpcTransport:
    """A channel to one service. Thread-safe."""

    def __init__(self, endpoint: Endpoint | str) -> None:
        self.endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self._channel = self.endpoint.open(_SYNC_OPTIONS)
        self._methods: dict[str, Callable[..., Any]] = {}
        self._pool = MappingPool()

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        return self._result(self._method(rpc), request, timeout_s)

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """One request, a stream of responses. The call starts at once; any thread may call `close`."""
        reader, metadata = _stream_reader(self.endpoint, self._pool)
        try:
            call = self._method(rpc)(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # the channel is closed
            raise StreamingError(str(error)) from None
        return GrpcStream(call, self.endpoint, reader)

    def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        return self._result(self._method(rpc), iter(requests), timeout_s)

    def close(self) -> None:
        """Ends every call and frees the connection."""
        self._channel.close()

    def _method(self, rpc: Rpc) -> Callable[..., Any]:
        method = self._methods.get(rpc.method)
        if method is None:
            method = self._methods[rpc.method] = _multicallable(self._channel, rpc)
        return method

    def _result(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Message:
        try:
            return method(request, timeout=timeout_s, metadata=self.endpoint.metadata())
        except grpc.RpcError as error:
            raise translate_error(error, self.endpoint) from None
        except ValueError as error:  # the channel is closed
            raise StreamingError(str(error)) from None


class AsyncGrpcTransport:
    """A channel to one service, bound to the event loop of the first call."""

    def __init__(self, endpoint: Endpoint | str) -> None:
        self.endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._pool = MappingPool()

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        return await self._result(rpc, request, timeout_s)

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """One request, a stream of responses. The call starts at once; any task may call `aclose`."""
        reader, metadata = _stream_reader(self.endpoint, self._pool)
        call = self._method(rpc)(request, timeout=timeout_s, metadata=metadata)
        return AsyncGrpcStream(call, self.endpoint, reader)

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        return await self._result(rpc, iter(requests), timeout_s)

    async def close(self) -> None:
        """Ends every call and frees the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _method(self, rpc: Rpc) -> Callable[..., Any]:
        if self._channel is None:
            self._channel = self.endpoint.open_async(_OPTIONS)
        method = self._methods.get(rpc.method)
        if method is None:
            method = self._methods[rpc.method] = _multicallable(self._channel, rpc)
        return method

    async def _result(self, rpc: Rpc, request: Any, timeout_s: float | None) -> Message:
        call: Awaitable[Message] = self._method(rpc)(request, timeout=timeout_s, metadata=self.endpoint.metadata())
        try:
            return await call
        except grpc.RpcError as error:
            raise translate_error(error, self.endpoint) from None


def _stream_reader(endpoint: Endpoint, pool: MappingPool) -> tuple[SharedMemoryReader, list[tuple[str, str]]]:
    """The reader of a stream's payloads, and the metadata of the call."""
    if not endpoint.wants_shared_memory:
        return SharedMemoryReader(), endpoint.metadata()
    reader = SharedMemoryReader(pool)
    return reader, [*endpoint.metadata(), reader.metadata]


def _multicallable(channel: grpc.Channel | grpc.aio.Channel, rpc: Rpc) -> Callable[..., Any]:
    kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
    make: Callable[..., Any] = getattr(channel, kind)
    read = response_deserializer(rpc) if rpc.streams_responses else rpc.deserialize_response
    return make(rpc.path, request_serializer=rpc.serialize, response_deserializer=read)
