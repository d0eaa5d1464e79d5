"""Sends large stream payloads through shared memory to clients on the same host.

    async for event in pool.share_payloads(events, pool.requested_region(metadata, client)): await context.write(event)

A frame travels inline in the message while the client has not mapped the memory, or when the region is full. So a slow
reader gets slower delivery but cannot block the stream. After a stream its region is retained for the client's next
stream, because its pages are already faulted in.
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
"""How many slices of maximum size fit into a region."""
_MAX_WAIT_S = 0.25
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.0002, 0.005
_IDLE_S = 60.0
_MAX_IDLE = 2
"""How many full-size regions may be retained."""
_PREFIX = "neuroscope-shared-"


def slice_bytes(context: Context) -> int:
    """The maximum bytes of a large tensor in one frame of this call."""
    found = contexts.get_value(_SLICE_KEY, context)
    return found if isinstance(found, int) else SLICE_BYTES


class SharedMemoryPool:
    """The shared memory regions of one service, for one event loop.

    Args:
        length_bytes: size of a stream's region; 0 disables shared memory.

    Attributes:
        streams: streams whose clients have mapped their region.
        shared_bytes: total bytes sent through shared memory.
    """

    def __init__(self, length_bytes: int) -> None:
        self._length_bytes = length_bytes and max(length_bytes, LEAST_BYTES)
        self._folder: PrivateFolder | None = None
        self._idle: dict[str, tuple[SharedMemory, asyncio.TimerHandle]] = {}  # the oldest first
        self.streams = 0
        self.shared_bytes = 0

    def requested_region(self, metadata: Iterable[tuple[str, str | bytes]], client: str) -> str:
        """The region a client on this host asks for: a `region_id`, or ANY; empty if it asks for none."""
        if not self._length_bytes or not is_local(client):
            return ""
        return str(dict(metadata).get(METADATA_KEY, ""))

    def with_large_slices(self, context: Context) -> Context:
        """A call context with a larger slice size than messages use."""
        largest = max(SLICE_BYTES, min(_LARGEST_SLICE_BYTES, self._length_bytes // _SLICES))
        return contexts.set_value(_SLICE_KEY, largest, context)

    async def share_payloads(
        self, events: AsyncGenerator[Event, None], wanted: str = ANY
    ) -> AsyncGenerator[Event, None]:
        """Moves payloads of a stream into shared memory where possible.

        Args:
            events: events with inline payloads.
            wanted: the region that the client has mapped, or ANY.
        """
        memory: SharedMemory | None = None
        counted = stalled = read = False
        try:
            async with aclosing(events):
                async for event in events:
                    if not isinstance(event, Frame):
                        if memory is None and _has_plan(event):
                            memory = self._reuse(wanted) or self._create()
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
                        region = await _place_when_free(memory, event)
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
                self._retain(memory)
            elif memory is not None:  # the client may not know of some placed payloads and would never free them
                memory.close()

    @property
    def held_bytes(self) -> int:
        """Bytes of retained regions."""
        return sum(memory.held_bytes for memory, _ in self._idle.values())

    def close(self) -> None:
        """Frees retained regions and removes the folder."""
        while self._idle:
            self._release(next(iter(self._idle)))
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _reuse(self, region_id: str) -> SharedMemory | None:
        memory, timer = self._idle.pop(region_id, (None, None))
        if timer is not None:
            timer.cancel()
        return memory

    def _retain(self, memory: SharedMemory) -> None:
        region_id = memory.offer.region_id
        timer = asyncio.get_running_loop().call_later(_IDLE_S, self._release, region_id)
        self._idle[region_id] = memory, timer
        while self.held_bytes > _MAX_IDLE * self._length_bytes:
            self._release(next(iter(self._idle)))

    def _release(self, region_id: str) -> None:
        if memory := self._reuse(region_id):
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
    """A temporary folder of this process, on tmpfs if available.

    It also removes folders left by processes that were killed.

    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(self) -> None:
        place = self._parent()
        for found in place.glob(f"{_PREFIX}*"):
            _remove_stale(found)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)

    @staticmethod
    def _parent() -> Path:
        for name in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
            if name and os.access(name, os.W_OK | os.X_OK):
                return Path(name)
        return Path(tempfile.gettempdir())


def _remove_stale(folder: Path) -> None:
    """Removes a folder whose process has exited."""
    with contextlib.suppress(OSError):  # owned by another user, or just being created
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock_fd)


def _offer(event: Event, memory: SharedMemory) -> None:
    """Adds the offer of a region to a stream's plan."""
    if isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse):
        event.plan.shared_memory.CopyFrom(memory.offer)


def _has_plan(event: Event) -> bool:
    return isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse) and event.HasField(
        "plan"
    )


async def _place_when_free(memory: SharedMemory, framed: Frame) -> tensor_pb2.SharedRegion | None:
    """Waits for the reader to free space, then places a payload; None on timeout."""
    pause_s, waited_s = _FIRST_PAUSE_S, 0.0
    while waited_s < _MAX_WAIT_S:
        await asyncio.sleep(pause_s)
        if region := memory.place(framed.parts):
            return region
        waited_s += pause_s
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
    return None
