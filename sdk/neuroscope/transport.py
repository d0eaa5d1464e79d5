"""How calls reach a service: a small protocol, and its implementation over gRPC.

    open_transport("127.0.0.1:50051")      gRPC, one long-lived channel
    open_transport("local")                the engine in this process, if it is installed

A transport knows the contract's calls (`neuroscope.rpc`) and nothing of what they mean. It raises only errors of
`neuroscope.errors`. `GrpcTransport` is native synchronous gRPC; `AsyncGrpcTransport` is grpc.aio.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Protocol, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from neuroscope import status
from neuroscope.codec import Event
from neuroscope.endpoint import Endpoint
from neuroscope.errors import ChecksumError, MLXIntegrationError, NeuroScopeIntegrationError, StreamingError
from neuroscope.rpc import RPCS, Rpc
from neuroscope.sharing import Mappings, Receiver

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
LOCAL = "local"
LOCAL_ANALYSIS = "local_analysis"
_ENTRY_POINTS = "neuroscope.transports"
# Only what changes nothing at the server is tried again.
_RETRIED = ("ListModels", "GetModel", "Tokenize", "Detokenize", "ListHooks", "EstimateCapture", "GetCapture",
            "ListCaptures", "GetTrace", "GetWorkload")  # fmt: skip
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": RPCS[name].service, "method": name} for name in _RETRIED],
            "retryPolicy": {
                "maxAttempts": 3,  # half a second: a service that is gone is reported within one
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
KEEPALIVE_MS = 30_000
"""A connection with calls is asked for a sign of life this often; services send away who asks too often."""
KEEPALIVE_TIMEOUT_MS = 15_000
"""A connection that gives none for so long is given up, and its calls end with UNAVAILABLE."""
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # the one that counts; a minute by default
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),  # one that is there again is found about a second later
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]
# Reads on the caller's thread: a quarter less CPU per GB.
_SYNC_OPTIONS = [*_OPTIONS, ("SingleThreadedUnaryStream", 1)]


class Transport(Protocol):
    """Makes calls and waits for them."""

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        ...

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """One request, a stream of responses. Closing the generator cancels the call."""
        ...

    def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        ...

    def close(self) -> None:
        """Ends every call and frees the connection."""
        ...


class AsyncTransport(Protocol):
    """Makes calls on an event loop."""

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        ...

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """One request, a stream of responses. Closing the generator cancels the call."""
        ...

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        ...

    async def close(self) -> None:
        """Ends every call and frees the connection."""
        ...


def open_transport(target: str, **settings: Any) -> Transport:
    """The transport of a target: `host:port` or `unix:path` with the fields of `Endpoint`, or `local` with the settings
    of the engine; `local_analysis` is an analysis service with that engine."""
    if target in (LOCAL, LOCAL_ANALYSIS):
        return _load_local(target)(**settings)
    return GrpcTransport(Endpoint(target, **settings))


def open_async_transport(target: str, **settings: Any) -> AsyncTransport:
    """As `open_transport`, for an event loop."""
    if target in (LOCAL, LOCAL_ANALYSIS):
        return _load_local(f"{target}_async")(**settings)
    return AsyncGrpcTransport(Endpoint(target, **settings))


class GrpcTransport:
    """A channel to one service. Thread-safe."""

    def __init__(self, endpoint: Endpoint | str) -> None:
        self.endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self._channel = self.endpoint.open(_SYNC_OPTIONS)
        self._methods: dict[str, Callable[..., Any]] = {}
        self._mappings = Mappings()

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        return self._result(self._method(rpc), request, timeout_s)

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """One request, a stream of responses; the call begins at once. `close` may be called from any thread."""
        receiver, metadata = _receiver(self.endpoint, self._mappings)
        try:
            call = self._method(rpc)(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # the channel is closed
            raise StreamingError(str(error)) from None
        return _GrpcStream(call, self.endpoint, receiver)

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
            raise _translated(error, self.endpoint) from None
        except ValueError as error:  # the channel is closed
            raise StreamingError(str(error)) from None


class AsyncGrpcTransport:
    """A channel to one service, of the event loop that makes the first call."""

    def __init__(self, endpoint: Endpoint | str) -> None:
        self.endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._mappings = Mappings()

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        return await self._result(rpc, request, timeout_s)

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """One request, a stream of responses; the call begins at once. `aclose` may be called from any task."""
        receiver, metadata = _receiver(self.endpoint, self._mappings)
        call = self._method(rpc)(request, timeout=timeout_s, metadata=metadata)
        return _AsyncGrpcStream(call, self.endpoint, receiver)

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
            raise _translated(error, self.endpoint) from None


class _GrpcStream(Generator[Event, None, None]):
    """The responses of a call. Unlike a plain generator it can be closed while another thread waits for it."""

    def __init__(self, call: Any, endpoint: Endpoint, receiver: Receiver) -> None:
        self._call = call
        self._responses: Iterator[Event] = call
        self._endpoint = endpoint
        self._receiver = receiver
        self._event_count = 0
        self._closed = False

    def __next__(self) -> Event:
        try:
            event = next(self._responses)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise _translated(error, self._endpoint, self._event_count) from None
        except StopIteration:
            self._receiver.end()
            raise
        except BaseException:  # such as KeyboardInterrupt: nobody will read on
            self.close()
            raise
        self._event_count += 1
        return self._receiver.event(_readable(event))

    def send(self, value: None, /) -> Event:
        return self.__next__()

    def throw(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None, /) -> Event:
        self.close()
        raise _exception(typ, val, tb)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()


class _AsyncGrpcStream(AsyncGenerator[Event, None]):
    """The responses of a call. Unlike a plain generator it can be closed while another task waits for it."""

    def __init__(self, call: Any, endpoint: Endpoint, receiver: Receiver) -> None:
        self._call = call
        self._endpoint = endpoint
        self._receiver = receiver
        self._event_count = 0
        self._closed = False

    async def __anext__(self) -> Event:
        try:
            event = await self._call.read()
        except grpc.RpcError as error:
            if self._closed:
                raise StopAsyncIteration from None
            raise _translated(error, self._endpoint, self._event_count) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise StopAsyncIteration from None
            self._call.cancel()
            raise
        if event is grpc.aio.EOF:
            self._receiver.end()
            raise StopAsyncIteration
        self._event_count += 1
        return self._receiver.event(_readable(event))

    async def asend(self, value: None, /) -> Event:
        return await self.__anext__()

    async def athrow(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None, /) -> Event:
        await self.aclose()
        raise _exception(typ, val, tb)

    async def aclose(self) -> None:
        self._closed = True
        self._call.cancel()


def _receiver(endpoint: Endpoint, mappings: Mappings) -> tuple[Receiver, list[tuple[str, str]]]:
    """What reads a stream, and what the call carries besides its request."""
    if not endpoint.wants_shared_memory:
        return Receiver(), endpoint.metadata()
    receiver = Receiver(mappings)
    return receiver, [*endpoint.metadata(), receiver.metadata]


def _exception(typ: Any, val: BaseException | object, tb: TracebackType | None) -> BaseException:
    """What a generator's `throw` raises."""
    error: BaseException = val if isinstance(val, BaseException) else typ() if isinstance(typ, type) else typ
    return error.with_traceback(tb)


def _multicallable(channel: grpc.Channel | grpc.aio.Channel, rpc: Rpc) -> Callable[..., Any]:
    kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
    make: Callable[..., Any] = getattr(channel, kind)
    read = _reader(rpc) if rpc.streams_responses else rpc.deserialize_response
    return make(rpc.path, request_serializer=rpc.serialize, response_deserializer=read)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Bytes that are not the message they should be; gRPC by itself would end the call with INTERNAL."""

    reason: str


def _reader(rpc: Rpc) -> Callable[[bytes], Event | _Unreadable]:
    decode = rpc.deserialize_response

    def read(raw: bytes) -> Event | _Unreadable:
        try:
            return decode(raw)
        except DecodeError as error:
            return _Unreadable(
                f"what came is no {rpc.response.DESCRIPTOR.name}, its bytes were changed on the way: {error}"
            )

    return read


def _readable(event: Event | _Unreadable) -> Event:
    if isinstance(event, _Unreadable):
        raise ChecksumError(event.reason)
    return event


def _translated(error: grpc.RpcError, endpoint: Endpoint, event_count: int = 0) -> MLXIntegrationError:
    """The error of a failed call; one that says what to do where no service answered."""
    translated = status.from_rpc_error(error)
    code = cast("grpc.Call", error).code()
    if code is grpc.StatusCode.CANCELLED and not event_count and status.error_info(error) is None:
        return NeuroScopeIntegrationError(f"the service at {endpoint} is stopping: the call came too late")
    if not isinstance(translated, NeuroScopeIntegrationError) or status.error_info(error) is not None:
        return translated
    if event_count:
        return StreamingError(f"the service at {endpoint} went away after {event_count} messages: {translated.message}")
    speaks = "that speaks TLS as configured here " if endpoint.encryption else ""
    other = "" if endpoint.encryption else "; one that speaks TLS needs tls="
    return NeuroScopeIntegrationError(
        f"no {endpoint.service} service {speaks}answers at {endpoint} ({translated.message}). Start one with"
        f" `neuroscope up`, or name another target{other}"
    )


def _load_local(name: str) -> Callable[..., Any]:
    found: Sequence[Any] = tuple(entry_points(group=_ENTRY_POINTS, name=name))
    if not found:
        raise NeuroScopeIntegrationError(
            "the inference engine is not installed here: pip install 'neuroscope-mlx[inference]', or name a target"
        )
    return cast("Callable[..., Any]", found[0].load())
