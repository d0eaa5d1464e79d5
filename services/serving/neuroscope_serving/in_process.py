"""A service in the caller's own process, behind the SDK's transport protocol: no network, no serialisation.

Calls take the same code path as calls over gRPC.
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
        service: the service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._preparing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Prepares the service. Earlier calls wait until it is prepared. Errors are those of its `prepare`."""
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self._service.prepare())
        await asyncio.shield(self._preparing)

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """Runs a unary call."""
        async with asyncio.timeout(timeout_s):
            await self.start()
            return await self._service.unary(rpc, request, telemetry.inject())

    async def stream(
        self, rpc: Rpc, request: Message, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Runs a server-streaming call; closing the generator cancels it."""
        await self.start()
        async with aclosing(self._service.stream(rpc, request, telemetry.inject())) as events:
            async for event in events:
                # A large tensor in a single frame would keep the engine's memory, which has a budget.
                if isinstance(event, Frame) and isinstance(event.header, tensor_pb2.TensorFrame):
                    event.borrowed = event.header.last and event.header.offset_bytes == 0
                yield event

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """Runs a client-streaming call."""

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
    """The in-process transport for a synchronous client, on an event loop in a thread of its own.

    Args:
        make: makes the asynchronous transport; called in that thread.
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
        """Runs a unary call."""
        return self._wait(self._transport.unary(rpc, request, timeout_s=timeout_s))

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """Runs a server-streaming call; closing the generator cancels it."""
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
        """Runs a client-streaming call."""
        return self._wait(self._transport.upload(rpc, requests, timeout_s=timeout_s))

    def close(self) -> None:
        """Stops the service and the loop. Further calls have no effect."""
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
