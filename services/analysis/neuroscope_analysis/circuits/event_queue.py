"""Events of a stream that one task makes while another sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import progress_pb2
from neuroscope.wire.codec import Event

_MAX_QUEUED = 16
Response: TypeAlias = "type[pb.DiscoverCircuitResponse] | type[pb.EvaluateCircuitResponse]"


class EventQueue:
    """What the task of one analysis tells. A slow reader slows the task.

    Args:
        response: the messages of the stream.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_QUEUED)
        self._began_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    async def send(self, event: Event) -> None:
        """Sends a message or a frame."""
        await self._queue.put(event)

    async def plan(self, plan: pb.CircuitPlan) -> None:
        """Says what is about to be done."""
        await self.send(self._response(plan=plan))

    async def progress(self, stage: str, done: int, count: int) -> None:
        """Says how far it is."""
        told = progress_pb2.AnalysisProgress(stage=stage, done=done, count=count, elapsed_seconds=self.elapsed_s)
        await self.send(self._response(progress=told))

    async def partial(self, partial: pb.CircuitPartial) -> None:
        """Says what has been found."""
        await self.send(self._response(partial=partial))

    async def events(self, work: Callable[[], Awaitable[None]]) -> AsyncGenerator[Event, None]:
        """What the work sends, while it runs; it is cancelled with whoever reads."""

        async def run() -> None:
            try:
                await work()
            finally:
                await self._queue.put(None)

        task = asyncio.create_task(run())
        try:
            while (event := await self._queue.get()) is not None:
                yield event
            await task
        finally:
            task.cancel()
            while not task.done():
                while not self._queue.empty():
                    self._queue.get_nowait()
                await asyncio.wait([task], timeout=0.05)
