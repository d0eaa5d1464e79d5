"""A service in the caller's own process, behind the SDK's transport protocol: no network, no serialisation.

Calls take the very path that calls over gRPC take.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from google.protobuf.message import Message

from neuroscope.tracing import telemetry
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.rpc import Rpc
from neuroscope_serving.server import Service

Result = TypeVar("Result")


class AsyncInProcessTransport:
    """The in-process transport for an asynchronous client; use it on one event loop.

    Args:
        service: what answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._preparing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Prepares the service; a call that comes earlier waits for that too. Errors are those of its `prepare`."""
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self._service.prepare())
        await asyncio.shield(self._preparing)

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """Answers a call."""
        async with asyncio.timeout(timeout_s):
            await self.start()
            return await self._service.unary(rpc, request, telemetry.inject())

    async def stream(
        self, rpc: Rpc, request: Message, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Answers a streaming call; closing the generator cancels it."""
        await self.start()
        async with aclosing(self._service.stream(rpc, request, telemetry.inject())) as events:
            async for event in events:
                # A large tensor in one frame would be kept where it lies: in the engine's memory, which has a budget.
                if isinstance(event, Frame) and isinstance(event.header, tensor_pb2.TensorFrame):
                    event.borrowed = event.header.last and event.header.offset_bytes == 0
                yield event

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """Answers a call that takes a stream."""

        async def stream() -> AsyncGenerator[Event, None]:
            for request in requests:
                yield request

        async with asyncio.timeout(timeout_s):
            await self.start()
            return await self._service.unary(rpc, stream(), telemetry.inject())

    async def close(self) -> None:
        """Stops the service."""
        if self._preparing is not None:
            self._preparing.cancel()
        await self._service.close()


class InProcessTransport:
    """The same for a synchronous client, on an event loop of its own thread.

    Args:
        make: makes the transport of the loop; called by this thread.
    """

    def __init__(self, make: Callable[[], AsyncInProcessTransport]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="neuroscope-local", daemon=True)
        self._thread.start()
        self._transport = make()
        try:
            self._wait(self._transport.start())
        except BaseException:
            self.close()
            raise

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """Answers a call."""
        return self._wait(self._transport.unary(rpc, request, timeout_s=timeout_s))

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """Answers a streaming call; closing the generator cancels it."""
        events = self._transport.stream(rpc, request, timeout_s=timeout_s)
        try:
            while True:
                try:
                    event = self._wait(anext(events))
                except StopAsyncIteration:
                    return
                yield event
        finally:
            self._wait(events.aclose())

    def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """Answers a call that takes a stream."""
        return self._wait(self._transport.upload(rpc, requests, timeout_s=timeout_s))

    def close(self) -> None:
        """Stops the service and the loop; closing twice is closing once."""
        if self._loop.is_closed():
            return
        self._wait(self._transport.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, Result] | Any) -> Result:
        async def run() -> Result:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
