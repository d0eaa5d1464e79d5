"""Base classes of the clients: connection, deadline, retries and spans."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from opentelemetry import trace

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.stream import StreamState
from neuroscope.base_client.call import Call, CallFlow, CaptureStream, Operation, Stream, Upload
from neuroscope.base_client.progress import byte_listener
from neuroscope.base_client.retry import CaptureRetry, Retry
from neuroscope.errors import InvalidRequestError
from neuroscope.tracing import telemetry
from neuroscope.wire.endpoint import DEFAULT_TARGET, Endpoint
from neuroscope.wire.tls import Tls
from neuroscope.wire.transport import (
    LOCAL,
    AsyncGrpcTransport,
    AsyncTransport,
    GrpcTransport,
    Transport,
    open_async_transport,
    open_transport,
)

T = TypeVar("T")


class BaseClient:
    """Runs calls synchronously. Its arguments are those of `Client`."""

    _service: ClassVar[str] = "inference"
    """Name of the service in errors."""
    _local: ClassVar[str] = LOCAL
    """The in-process transport of the service."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        transport: Transport | None = None,
        timeout_s: float | None = None,
        tls: Tls | bool | None = None,
        token: str = "",
        shared_memory: bool = True,
        retry: Retry | None = None,
    ) -> None:
        if transport is None:
            endpoint = None if target == LOCAL else Endpoint(target, tls, token, shared_memory, self._service)
            transport = open_transport(self._local) if endpoint is None else GrpcTransport(endpoint)
        self._transport = transport
        self._timeout_s = timeout_s
        self._retry = retry or Retry()

    @classmethod
    def local(cls, *models: str | os.PathLike[str], **settings: Any) -> Self:
        """A client of the engine in this process.

        Args:
            models: folders or hub ids to load; the first is the default model.
            settings: settings of the inference service, such as model_memory_bytes.

        Raises:
            InvalidRequestError, ModelError: a setting is invalid, or a model cannot be loaded.
        """
        return cls(transport=open_transport(cls._local, **_with_models(models, settings)))

    def close(self) -> None:
        """Cancels running calls and closes the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, steps: CallFlow[T]) -> T:
        move: Callable[[], Operation] = partial(next, steps)
        while True:
            try:
                step = move()
            except StopIteration as end:
                return end.value
            try:
                move = partial(steps.send, self._take(step))
            except BaseException as error:
                move = partial(steps.throw, error)

    def _take(self, step: Operation) -> Any:
        match step:
            case Stream():
                for _ in self._stream(step):
                    pass
            case Upload():
                return self._upload(step)
            case CaptureStream():
                return self._captured(step)
            case Call():
                return self._unary(step)

    def _stream(self, stream: Stream[T]) -> Generator[T, None, None]:
        with _spanned(stream.name) as span:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                events = self._transport.stream(stream.rpc, stream.request)
            with closing(events):
                for event in events:
                    yield from stream.take(event)
            stream.finish()

    def _captured(self, wanted: CaptureStream) -> ActivationCache:
        recovery = CaptureRetry(wanted.call, self._retry, wanted.capture_id, restarts=wanted.restarts)
        with self._span(wanted.call.name) as span, byte_listener(wanted.progress, wanted.what) as report:
            for attempt in recovery.attempts():
                with attempt:
                    self._feed(recovery.state, recovery.call, report)
                    recovery.state.finish()
            span.set_attributes(recovery.state.attributes())
        return recovery.state.cache

    def _feed(self, state: StreamState, call: Call[None], report: Callable[[int], None]) -> None:
        with closing(self._transport.stream(call.rpc, call.request)) as events:
            for event in events:
                state.feed(event)
                report(state.received_bytes)

    def _unary(self, call: Call[T]) -> T:
        with self._span(call.name):
            return call.result(self._transport.unary(call.rpc, call.request, timeout_s=self._timeout_s))

    def _upload(self, call: Upload[T]) -> T:
        with self._span(call.name):
            return call.result(self._transport.upload(call.rpc, call.requests, timeout_s=self._timeout_s))

    def _span(self, name: str) -> AbstractContextManager[trace.Span]:
        return telemetry.tracer().start_as_current_span(f"neuroscope.{name}")


class AsyncBaseClient:
    """Runs calls on one event loop. Its arguments are those of `Client`."""

    _service: ClassVar[str] = "inference"
    _local: ClassVar[str] = LOCAL

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        transport: AsyncTransport | None = None,
        timeout_s: float | None = None,
        tls: Tls | bool | None = None,
        token: str = "",
        shared_memory: bool = True,
        retry: Retry | None = None,
    ) -> None:
        if transport is None:
            endpoint = None if target == LOCAL else Endpoint(target, tls, token, shared_memory, self._service)
            transport = open_async_transport(self._local) if endpoint is None else AsyncGrpcTransport(endpoint)
        self._transport = transport
        self._timeout_s = timeout_s
        self._retry = retry or Retry()

    @classmethod
    def local(cls, *models: str | os.PathLike[str], **settings: Any) -> Self:
        """A client of the engine in this process.

        Args:
            models: folders or hub ids to load; the first is the default model.
            settings: settings of the inference service, such as model_memory_bytes.

        Raises:
            InvalidRequestError, ModelError: a setting is invalid, or a model cannot be loaded.
        """
        return cls(transport=open_async_transport(cls._local, **_with_models(models, settings)))

    async def close(self) -> None:
        """Cancels running calls and closes the connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _follow(self, steps: CallFlow[T]) -> T:
        move: Callable[[], Operation] = partial(next, steps)
        while True:
            try:
                step = move()
            except StopIteration as end:
                return end.value
            try:
                move = partial(steps.send, await self._take(step))
            except BaseException as error:
                move = partial(steps.throw, error)

    async def _take(self, step: Operation) -> Any:
        match step:
            case Stream():
                async with aclosing(self._stream(step)) as values:
                    async for _ in values:
                        pass
            case Upload():
                return await self._upload(step)
            case CaptureStream():
                return await self._captured(step)
            case Call():
                return await self._unary(step)

    async def _stream(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
        with _spanned(stream.name) as span:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                events = self._transport.stream(stream.rpc, stream.request)
            async with aclosing(events):
                async for event in events:
                    for value in stream.take(event):
                        yield value
            stream.finish()

    async def _captured(self, wanted: CaptureStream) -> ActivationCache:
        recovery = CaptureRetry(wanted.call, self._retry, wanted.capture_id, restarts=wanted.restarts)
        with self._span(wanted.call.name) as span, byte_listener(wanted.progress, wanted.what) as report:
            async for attempt in recovery.async_attempts():
                with attempt:
                    await self._feed(recovery.state, recovery.call, report)
                    recovery.state.finish()
            span.set_attributes(recovery.state.attributes())
        return recovery.state.cache

    async def _feed(self, state: StreamState, call: Call[None], report: Callable[[int], None]) -> None:
        async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
            async for event in events:
                state.feed(event)
                report(state.received_bytes)

    async def _unary(self, call: Call[T]) -> T:
        with self._span(call.name):
            return call.result(await self._transport.unary(call.rpc, call.request, timeout_s=self._timeout_s))

    async def _upload(self, call: Upload[T]) -> T:
        with self._span(call.name):
            return call.result(await self._transport.upload(call.rpc, call.requests, timeout_s=self._timeout_s))

    def _span(self, name: str) -> AbstractContextManager[trace.Span]:
        return telemetry.tracer().start_as_current_span(f"neuroscope.{name}")


def _with_models(models: Sequence[str | os.PathLike[str]], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an in-process engine with these models."""
    if models and "model" in settings:
        raise InvalidRequestError("models are named twice, by themselves and as a setting", field="model")
    return {**settings, "model": [os.fspath(model) for model in models]} if models else settings


@contextmanager
def _spanned(name: str) -> Generator[trace.Span, None, None]:
    """A span that ends with the block. It is not made current, since generators suspend the block between values."""
    span = telemetry.tracer().start_span(f"neuroscope.{name}")
    try:
        yield span
    except Exception as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        span.end()
