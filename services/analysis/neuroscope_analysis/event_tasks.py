"""Work in a task of its own, and the stream of what it sends.

A stream is resumed by whoever reads it, each time perhaps in another context; a task keeps one, with its trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from neuroscope.wire.codec import Event

MAX_QUEUED = 16
"""Events that wait for the reader; then the work waits."""
EventPipe: TypeAlias = "asyncio.Queue[Event | None]"
"""Events of one analysis; None ends them."""


async def run_and_stream(pipe: EventPipe, work: Callable[[], Awaitable[None]]) -> AsyncGenerator[Event, None]:
    """Runs `work` and yields what it puts into the pipe; closing the generator cancels it."""

    async def run() -> None:
        try:
            await work()
        finally:
            await pipe.put(None)

    task = asyncio.create_task(run())
    try:
        while (event := await pipe.get()) is not None:
            yield event
        await task
    finally:
        task.cancel()
        while not task.done():
            while not pipe.empty():
                pipe.get_nowait()
            await asyncio.wait([task], timeout=0.05)


async def in_one_task(source: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, made in a task."""
    pipe: EventPipe = asyncio.Queue(MAX_QUEUED)

    async def work() -> None:
        async with aclosing(source) as events:
            async for event in events:
                await pipe.put(event)

    async with aclosing(run_and_stream(pipe, work)) as events:
        async for event in events:
            yield event
