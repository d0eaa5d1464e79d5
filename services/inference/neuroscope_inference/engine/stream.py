"""The bridge between the engine's thread and one reader: bounded, cancellable, awake only when something is there."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Stream(Generic[Item]):
    """What a job produces, on its way to the reader's event loop.

    The engine's thread calls `has_room`, `put`, `finish` and `fail`; the reader takes `items`, gives bytes back with
    `release` as they leave, and closes. A reader that is slow leaves no room, and then its job rests.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int, wake_engine: Callable[[], None]) -> None:
        self._loop = loop
        self._limit_bytes = limit_bytes
        self._wake_engine = wake_engine
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._arrived = asyncio.Event()
        self._held_bytes = 0
        self._error: BaseException | None = None
        self._finished = False
        self.closed = False
        """The reader has gone."""

    def has_room(self) -> bool:
        """Whether the job may produce more."""
        return self._held_bytes < self._limit_bytes

    def put(self, item: Item, nbytes: int) -> None:
        """Adds an item whose payload holds that much memory until it is released."""
        with self._lock:
            self._items.append(item)
            self._held_bytes += nbytes
        self._notify()

    def finish(self) -> None:
        """Ends the stream after what is in it."""
        self._finished = True
        self._notify()

    def fail(self, error: BaseException) -> None:
        """Ends the stream after what is in it, with an error."""
        self._error = error
        self.finish()

    def release(self, nbytes: int) -> None:
        """Gives back memory of items that have left."""
        with self._lock:
            self._held_bytes -= nbytes
        self._wake_engine()

    def close(self) -> None:
        """The reader goes: the job ends before its next piece of work."""
        self.closed = True
        self._wake_engine()

    async def items(self) -> AsyncGenerator[Item, None]:
        """What the job produces, until it ends or fails with its error."""
        while True:
            with self._lock:
                item = self._items.popleft() if self._items else None
            if item is not None:
                yield item
                continue
            if self._finished:
                if self._items:
                    continue
                if self._error is not None:
                    raise self._error
                return
            await self._arrived.wait()
            self._arrived.clear()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the reader's loop is closed
            self.closed = True
