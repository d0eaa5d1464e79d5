"""Responses of a streaming gRPC call, and errors of failed calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from neuroscope.errors import ChecksumError, MLXIntegrationError, NeuroScopeIntegrationError, StreamingError
from neuroscope.wire import status
from neuroscope.wire.codec import Event
from neuroscope.wire.endpoint import Endpoint
from neuroscope.wire.rpc import Rpc
from neuroscope.wire.shared_memory_client import SharedMemoryReader


class GrpcStream(Generator[Event, None, None]):
    """Responses of a call. Unlike a generator it can be closed while another thread waits in `next`."""

    def __init__(self, call: Any, endpoint: Endpoint, reader: SharedMemoryReader) -> None:
        self._call = call
        self._responses: Iterator[Event] = call
        self._endpoint = endpoint
        self._reader = reader
        self._event_count = 0
        self._closed = False

    def __next__(self) -> Event:
        try:
            event = next(self._responses)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise translate_error(error, self._endpoint, self._event_count) from None
        except StopIteration:
            self._reader.finish()
            raise
        except BaseException:  # such as KeyboardInterrupt: the caller does not read on
            self.close()
            raise
        self._event_count += 1
        return self._reader.resolve(_readable(event))

    def send(self, value: None, /) -> Event:
        return self.__next__()

    def throw(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None, /) -> Event:
        self.close()
        raise _exception(typ, val, tb)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()


class AsyncGrpcStream(AsyncGenerator[Event, None]):
    """Responses of a call. Unlike a generator it can be closed while another task waits in `anext`."""

    def __init__(self, call: Any, endpoint: Endpoint, reader: SharedMemoryReader) -> None:
        self._call = call
        self._endpoint = endpoint
        self._reader = reader
        self._event_count = 0
        self._closed = False

    async def __anext__(self) -> Event:
        try:
            event = await self._call.read()
        except grpc.RpcError as error:
            if self._closed:
                raise StopAsyncIteration from None
            raise translate_error(error, self._endpoint, self._event_count) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise StopAsyncIteration from None
            self._call.cancel()
            raise
        if event is grpc.aio.EOF:
            self._reader.finish()
            raise StopAsyncIteration
        self._event_count += 1
        return self._reader.resolve(_readable(event))

    async def asend(self, value: None, /) -> Event:
        return await self.__anext__()

    async def athrow(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None, /) -> Event:
        await self.aclose()
        raise _exception(typ, val, tb)

    async def aclose(self) -> None:
        self._closed = True
        self._call.cancel()


def _exception(typ: Any, val: BaseException | object, tb: TracebackType | None) -> BaseException:
    """The exception that a generator's `throw` raises."""
    error: BaseException = val if isinstance(val, BaseException) else typ() if isinstance(typ, type) else typ
    return error.with_traceback(tb)


@dataclass(frozen=True, slots=True)
class _DecodeFailure:
    """A response that cannot be parsed. gRPC by itself would end the call with INTERNAL."""

    reason: str


def response_deserializer(rpc: Rpc) -> Callable[[bytes], Event | _DecodeFailure]:
    """Returns the function that parses responses of a stream."""
    decode = rpc.deserialize_response

    def read(raw: bytes) -> Event | _DecodeFailure:
        try:
            return decode(raw)
        except DecodeError as error:
            return _DecodeFailure(
                f"a {rpc.response.DESCRIPTOR.name} cannot be parsed, it was corrupted in transit: {error}"
            )

    return read


def _readable(event: Event | _DecodeFailure) -> Event:
    if isinstance(event, _DecodeFailure):
        raise ChecksumError(event.reason)
    return event


def translate_error(error: grpc.RpcError, endpoint: Endpoint, event_count: int = 0) -> MLXIntegrationError:
    """The error of a failed call. If no service answered, it says how to start one.

    Args:
        error: as gRPC raised it.
        endpoint: the service that was called.
        event_count: responses received before.
    """
    translated = status.from_rpc_error(error)
    code = cast("grpc.Call", error).code()
    if code is grpc.StatusCode.CANCELLED and not event_count and status.error_info(error) is None:
        return NeuroScopeIntegrationError(f"the service at {endpoint} is stopping and refused the call")
    if not isinstance(translated, NeuroScopeIntegrationError) or status.error_info(error) is not None:
        return translated
    if event_count:
        return StreamingError(
            f"the service at {endpoint} disconnected after {event_count} messages: {translated.message}"
        )
    with_tls = "with these TLS settings " if endpoint.encryption else ""
    hint = "" if endpoint.encryption else "; a service with TLS needs tls="
    return NeuroScopeIntegrationError(
        f"no {endpoint.service} service answers {with_tls}at {endpoint} ({translated.message}). Start one with"
        f" `neuroscope up`, or name another target{hint}"
    )
