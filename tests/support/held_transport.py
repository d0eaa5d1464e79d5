"""A transport to the inference service that stops in the middle of a call, and counts calls.

transport = HeldTransport(service.target, ("RunSweep", 2))
await transport.held.wait()        the third sweep has begun, and what it sends is not read
transport.release()
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import Message

from neuroscope.wire.codec import Event
from neuroscope.wire.endpoint import Endpoint
from neuroscope.wire.rpc import Rpc
from neuroscope.wire.transport import AsyncGrpcTransport

_LITTLE_AHEAD: list[tuple[str, Any]] = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
"""The service does not run ahead of what is read, so that a call that is held is not over there."""


class HeldTransport(AsyncGrpcTransport):
    """One channel; for one event loop.

    Args:
        target: `host:port`.
        held_at: name and number of the call, from 0.
        before: whether a stream is held before it has begun.
    """

    def __init__(self, target: str, held_at: tuple[str, int], *, before: bool = False) -> None:
        super().__init__(Endpoint(target, None, "", False))
        self._channel = self.endpoint.open_async(_LITTLE_AHEAD)
        self.calls: Counter[str] = Counter()
        """Begun so far, by name."""
        self.running = 0
        """Neither ended nor cancelled."""
        self.held = asyncio.Event()
        """Whether the call has been reached."""
        self._held_at, self._before = held_at, before
        self._released = asyncio.Event()

    def release(self) -> None:
        """Lets the call go on."""
        self._released.set()

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """As `AsyncGrpcTransport`; one that is held has not been made yet."""
        with self._counted(rpc) as is_held:
            if is_held:
                await self._hold()
            return await super().unary(rpc, request, timeout_s=timeout_s)

    async def stream(
        self, rpc: Rpc, request: Message, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `AsyncGrpcTransport`; one that is held has sent its first message."""
        with self._counted(rpc) as is_held:
            if is_held and self._before:
                await self._hold()
            async with aclosing(super().stream(rpc, request, timeout_s=timeout_s)) as events:
                async for event in events:
                    yield event
                    if is_held and not self._before:
                        await self._hold()

    async def _hold(self) -> None:
        self.held.set()
        await self._released.wait()

    @contextmanager
    def _counted(self, rpc: Rpc) -> Generator[bool]:
        is_held = (rpc.method, self.calls[rpc.method]) == self._held_at
        self.calls[rpc.method] += 1
        self.running += 1
        try:
            yield is_held
        finally:
            self.running -= 1
