"""Large payloads of streams through memory that a client on this host has mapped, in place of the message.

    async for event in sharing.carried(events, sharing.wanted(metadata, client)): await context.write(event)

What cannot go that way goes in the message, frame by frame: before the client has mapped the memory, where it never
does, and where it has left no room. So a reader that keeps what it reads is slower, and nobody waits for it for ever.
After a stream its memory waits a while for the same client's next one, which finds its pages in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

from opentelemetry import context as contexts
from opentelemetry.context import Context

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import SLICE_BYTES
from neuroscope.wire.shared_memory import ANY, LEAST_BYTES, METADATA_KEY, SMALLEST_BYTES, SharedMemory
from neuroscope_serving.peer import is_local

_log = logging.getLogger(__name__)
_SLICE_KEY = contexts.create_key("neuroscope-slice-bytes")
_LARGEST_SLICE_BYTES = 8 * 1024 * 1024
_SLICES = 4
"""As many of the largest slices fit at one time."""
_PATIENCE_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.005
_IDLE_S = 60.0
_MOST_IDLE = 2
"""As much is kept as so many streams may have."""
_PREFIX = "neuroscope-shared-"


def slice_bytes(context: Context) -> int:
    """Most bytes of a large tensor in one frame of a call."""
    found = contexts.get_value(_SLICE_KEY, context)
    return found if isinstance(found, int) else SLICE_BYTES


class Sharing:
    """The memory that one service shares with its clients; for one event loop.

    Args:
        length_bytes: of a stream's memory; 0: none is shared.

    Attributes:
        streams: streams whose clients have mapped theirs.
        shared_bytes: bytes that went through it so far.
    """

    def __init__(self, length_bytes: int) -> None:
        self._length_bytes = length_bytes and max(length_bytes, LEAST_BYTES)
        self._folder: PrivateFolder | None = None
        self._idle: dict[str, tuple[SharedMemory, asyncio.TimerHandle]] = {}  # the oldest first
        self.streams = 0
        self.shared_bytes = 0

    def wanted(self, metadata: Iterable[tuple[str, str | bytes]], client: str) -> str:
        """Which memory a client asks for that may be on this host: its `region_id`, or ANY. "": none."""
        if not self._length_bytes or not is_local(client):
            return ""
        return str(dict(metadata).get(METADATA_KEY, ""))

    def with_large_slices(self, context: Context) -> Context:
        """A call's context that lets tensors travel in fewer frames than would suit a message."""
        largest = max(SLICE_BYTES, min(_LARGEST_SLICE_BYTES, self._length_bytes // _SLICES))
        return contexts.set_value(_SLICE_KEY, largest, context)

    async def carried(self, events: AsyncGenerator[Event, None], wanted: str = ANY) -> AsyncGenerator[Event, None]:
        """The events of a stream, payloads in shared memory as far as that goes.

        Args:
            events: with their payloads in the message.
            wanted: the memory that the client has, if the service still has it too.
        """
        memory: SharedMemory | None = None
        counted = stalled = read = False
        try:
            async with aclosing(events):
                async for event in events:
                    if not isinstance(event, Frame):
                        if memory is None and _has_plan(event):
                            memory = self._take(wanted) or self._create()
                            if memory is not None:
                                _offer(event, memory)
                        yield event
                        continue
                    if memory is None or event.nbytes < SMALLEST_BYTES or not memory.is_mapped:
                        yield event
                        continue
                    self.streams += not counted
                    counted = True
                    region = memory.place(event.parts)
                    if region is None and not stalled:
                        region = await _placed(memory, event)
                    stalled = region is None
                    if region is None:
                        yield event
                        continue
                    self.shared_bytes += event.nbytes
                    event.header.region.CopyFrom(region)
                    yield Frame(event.header, ())
            read = True
        finally:
            self.streams -= counted
            if memory is not None and read and memory.is_mapped:
                self._keep(memory)
            elif memory is not None:  # places that the client never heard of would never be free again
                memory.close()

    @property
    def held_bytes(self) -> int:
        """What is kept for streams to come."""
        return sum(memory.held_bytes for memory, _ in self._idle.values())

    def close(self) -> None:
        """Frees what is kept and removes the folder."""
        while self._idle:
            self._drop(next(iter(self._idle)))
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _take(self, region_id: str) -> SharedMemory | None:
        memory, timer = self._idle.pop(region_id, (None, None))
        if timer is not None:
            timer.cancel()
        return memory

    def _keep(self, memory: SharedMemory) -> None:
        region_id = memory.offer.region_id
        timer = asyncio.get_running_loop().call_later(_IDLE_S, self._drop, region_id)
        self._idle[region_id] = memory, timer
        while self.held_bytes > _MOST_IDLE * self._length_bytes:
            self._drop(next(iter(self._idle)))

    def _drop(self, region_id: str) -> None:
        if memory := self._take(region_id):
            memory.close()

    def _create(self) -> SharedMemory | None:
        try:
            if self._folder is None:
                self._folder = PrivateFolder()
            return SharedMemory.create(self._folder.path, self._length_bytes)
        except OSError as error:
            _log.warning("no memory to share with a client, tensors travel in the stream: %s", error)
            return None


class PrivateFolder:
    """A folder for one process of this user, in memory where the system has such a place; gone with the process.

    A process that is killed cannot remove its folder; the next one does.

    Raises:
        OSError: there is no place for one.
    """

    def __init__(self) -> None:
        place = self._place()
        for found in place.glob(f"{_PREFIX}*"):
            _remove_left(found)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)

    def close(self) -> None:
        """Removes it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)

    @staticmethod
    def _place() -> Path:
        for name in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
            if name and os.access(name, os.W_OK | os.X_OK):
                return Path(name)
        return Path(tempfile.gettempdir())


def _remove_left(folder: Path) -> None:
    """Removes a folder whose process is gone."""
    with contextlib.suppress(OSError):  # another user's, or being made at this moment
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock_fd)


def _offer(event: Event, memory: SharedMemory) -> None:
    """Puts what it takes to map the memory into a stream's plan; events are not read again behind here."""
    if isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse):
        event.plan.shared_memory.CopyFrom(memory.offer)


def _has_plan(event: Event) -> bool:
    return isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse) and event.HasField(
        "plan"
    )


async def _placed(memory: SharedMemory, framed: Frame) -> tensor_pb2.SharedRegion | None:
    """As `SharedMemory.place`, once the reader has made room; None if it does not."""
    pause_s, waited_s = _FIRST_PAUSE_S, 0.0
    while waited_s < _PATIENCE_S:
        await asyncio.sleep(pause_s)
        if region := memory.place(framed.parts):
            return region
        waited_s += pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return None
