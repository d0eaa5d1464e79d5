"""How a client takes a stream's payloads out of memory that it shares with the service.

Transports use it; what is above them sees frames with payloads, wherever those came from.
"""

from __future__ import annotations

import logging

from neuroscope import shared_memory
from neuroscope.codec import Event, Framed
from neuroscope.errors import StreamingError
from neuroscope.shared_memory import MappedMemory
from neuroscope.v1 import inference_pb2 as pb

_log = logging.getLogger(__name__)
METADATA = ((shared_memory.METADATA_KEY, "1"),)
LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024
"""What a client that asks for shared memory takes in one message."""


class Receiver:
    """Takes the events of one stream as they come and gives them with their payloads."""

    def __init__(self) -> None:
        self._memory: MappedMemory | None = None

    def event(self, event: Event) -> Event:
        """The event, its payload where it lies.

        Raises:
            StreamingError: a frame refers to memory that is not shared.
        """
        if not isinstance(event, Framed):
            self._map(event)
            return event
        frame = event.frame
        if not frame.HasField("region"):
            return event
        if self._memory is None:
            raise StreamingError(f"frame {frame.sequence} lies in shared memory, and none is mapped")
        view = self._memory.view(frame.region)
        frame.ClearField("region")
        return Framed(frame, (view,), borrowed=True)

    def _map(self, event: Event) -> None:
        """Maps what the service offers with its plan; that the offer was made is nobody else's concern."""
        if (
            isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse)
            and event.HasField("plan")
            and event.plan.HasField("shared_memory")
        ):
            self._memory = MappedMemory.open(event.plan.shared_memory)
            if self._memory is None:
                _log.debug("the service is on another host or of another user; tensors come in the stream")
            event.plan.ClearField("shared_memory")
