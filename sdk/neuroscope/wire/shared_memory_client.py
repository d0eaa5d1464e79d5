"""Reads a stream's payloads from shared memory, for transports; callers see frames with payloads either way."""

from __future__ import annotations

import logging
from collections import deque

from neuroscope.errors import StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.shared_memory import ANY, METADATA_KEY, MappedMemory

_log = logging.getLogger(__name__)
LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message that a client with shared memory accepts."""
_MOST_IDLE = 4
_MOST_VIEWED = 0.25
"""Share of the memory that may be viewed. Above it the reader copies payloads, so that the service can reuse pages."""


class MappingPool:
    """Mapped memory of one service that no stream uses; the next stream reuses it. Thread-safe."""

    def __init__(self) -> None:
        self._idle: deque[MappedMemory] = deque(maxlen=_MOST_IDLE)

    def acquire(self) -> MappedMemory | None:
        """Returns the mapping released last, None if there is none. Mappings that are still viewed are dropped."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            if not found.viewed:
                return found

    def release(self, memory: MappedMemory) -> None:
        """Keeps a mapping for the next stream."""
        self._idle.append(memory)


class SharedMemoryReader:
    """Resolves the payloads of one stream's frames."""

    def __init__(self, pool: MappingPool | None = None) -> None:
        self._pool = pool or MappingPool()
        self._memory = self._pool.acquire()

    @property
    def metadata(self) -> tuple[str, str]:
        """Metadata of the call: the mapping to reuse, or any."""
        return METADATA_KEY, self._memory.region_id if self._memory else ANY

    def resolve(self, event: Event) -> Event:
        """Returns the event, with its payload if that is in shared memory.

        Raises:
            StreamingError: a frame refers to memory that is not mapped.
        """
        if not isinstance(event, Frame):
            self._map(event)
            return event
        header = event.header
        if not header.HasField("region"):
            return event
        if self._memory is None:
            raise StreamingError(f"frame {header.sequence} is in shared memory, and none is mapped")
        view = self._memory.view(header.region)
        header.ClearField("region")
        frame = Frame(header, (view,), borrowed=True)
        return frame if self._memory.viewed <= _MOST_VIEWED else frame.owned()

    def finish(self) -> None:
        """Releases the mapping after the last event."""
        if self._memory is not None:
            self._pool.release(self._memory)
            self._memory = None

    def _map(self, event: Event) -> None:
        """Maps the memory that a plan offers, and removes the offer from the plan."""
        if (
            isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse)
            and event.HasField("plan")
            and event.plan.HasField("shared_memory")
        ):
            if self._memory is None or self._memory.region_id != event.plan.shared_memory.region_id:
                self._memory = MappedMemory.open(event.plan.shared_memory)
            if self._memory is None:
                _log.debug("the service is on another host or of another user; tensors are sent in the stream")
            event.plan.ClearField("shared_memory")
