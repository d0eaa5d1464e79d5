"""A queue between the task that runs an analysis and the stream that sends its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.event_tasks import MAX_QUEUED, EventPipe, run_and_stream
from neuroscope_analysis.progress import ProgressTimer

Response: TypeAlias = "type[pb.DiscoverCircuitResponse] | type[pb.EvaluateCircuitResponse]"


class EventQueue:
    """Events of one analysis; a full queue makes the task wait for the reader.

    Args:
        response: the message type of the stream.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._queue: EventPipe = asyncio.Queue(MAX_QUEUED)
        self._timer = ProgressTimer()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._timer.elapsed_s()

    async def send(self, event: Event) -> None:
        """Sends a message or a frame."""
        await self._queue.put(event)

    async def plan(self, plan: pb.CircuitPlan) -> None:
        """Sends the plan."""
        await self.send(self._response(plan=plan))

    async def progress(self, stage: str, done: int, count: int) -> None:
        """Sends progress."""
        await self.send(self._response(progress=self._timer.progress(stage, done, count)))

    async def partial(self, partial: pb.CircuitPartial) -> None:
        """Sends a partial result."""
        await self.send(self._response(partial=partial))

    def events(self, work: Callable[[], Awaitable[None]]) -> AsyncGenerator[Event, None]:
        """Runs `work` and yields what it sends; closing the generator cancels it."""
        return run_and_stream(self._queue, work)
