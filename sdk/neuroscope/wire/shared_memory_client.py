"""How a client takes a stream's payloads out of memory that it shares with the service.

Transports use it; what is above them sees frames with payloads, wherever those came from.
"""

from __future__ import annotations

import logging
from collections import deque

from neuroscope.errors import StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.shared_memory import ANY, METADATA_KEY, MappedMemory

_log = logging.getLogger(__name__)
LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024
"""What a client that asks for shared memory takes in one message."""
_MOST_IDLE = 4
_MOST_VIEWED = 0.25
"""Of the memory. Who looks at more than that gets copies, so that the service finds room, and the same pages again."""


class MappingPool:
    """What a client has mapped of one service and no stream uses: the next one takes it over. Thread-safe."""

    def __init__(self) -> None:
        self._idle: deque[MappedMemory] = deque(maxlen=_MOST_IDLE)

    def acquire(self) -> MappedMemory | None:
        """The last one kept; one of which somebody still looks at a part is left to them."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            if not found.viewed:
                return found

    def release(self, memory: MappedMemory) -> None:
        """For the next stream."""
        self._idle.append(memory)


class SharedMemoryReader:
    """Takes the events of one stream as they come and gives them with their payloads."""

    def __init__(self, pool: MappingPool | None = None) -> None:
        self._pool = pool or MappingPool()
        self._memory = self._pool.acquire()

    @property
    def metadata(self) -> tuple[str, str]:
        """What the call says to the service, which offers this memory again, or another."""
        return METADATA_KEY, self._memory.region_id if self._memory else ANY

    def resolve(self, event: Event) -> Event:
        """The event, its payload where it lies.

        Raises:
            StreamingError: a frame refers to memory that is not shared.
        """
        if not isinstance(event, Frame):
            self._map(event)
            return event
        header = event.header
        if not header.HasField("region"):
            return event
        if self._memory is None:
            raise StreamingError(f"frame {header.sequence} lies in shared memory, and none is mapped")
        view = self._memory.view(header.region)
        header.ClearField("region")
        frame = Frame(header, (view,), borrowed=True)
        return frame if self._memory.viewed <= _MOST_VIEWED else frame.owned()

    def finish(self) -> None:
        """After the last event: the service has nothing more to put there."""
        if self._memory is not None:
            self._pool.release(self._memory)
            self._memory = None

    def _map(self, event: Event) -> None:
        """Maps what the service offers with its plan; that the offer was made is nobody else's concern."""
        if (
            isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse)
            and event.HasField("plan")
            and event.plan.HasField("shared_memory")
        ):
            if self._memory is None or self._memory.region_id != event.plan.shared_memory.region_id:
                self._memory = MappedMemory.open(event.plan.shared_memory)
            if self._memory is None:
                _log.debug("the service is on another host or of another user; tensors come in the stream")
            event.plan.ClearField("shared_memory")
