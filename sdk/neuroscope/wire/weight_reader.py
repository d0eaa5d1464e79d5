"""The bytes of one weight as they come, without the array that they make. Does no input or output itself."""

from __future__ import annotations

import xxhash

from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.wire.codec import Event, Frame


class WeightReader:
    """The stream of one weight: its plan, then its bytes."""

    def __init__(self) -> None:
        self.plan: pb.WeightsPlan | None = None
        self._digest = xxhash.xxh3_64()
        self._received_bytes = 0

    @property
    def spec(self) -> tensor_pb2.TensorSpec:
        """What the bytes are.

        Raises:
            StreamingError: the plan has not come, or is of several weights.
        """
        if self.plan is None or len(self.plan.tensors.tensors) != 1:
            raise StreamingError("this is no stream of one weight")
        return self.plan.tensors.tensors[0]

    def feed(self, event: Event) -> memoryview | None:
        """Takes an event in; gives the bytes that it carries.

        Raises:
            ChecksumError: they are not what was sent.
        """
        if isinstance(event, pb.ReadWeightsResponse):
            if event.HasField("plan"):
                self.plan = event.plan
            return None
        assert isinstance(event, Frame)
        header, payload = event.header, event.payload
        self._digest.update(payload)
        self._received_bytes += payload.nbytes
        is_small = isinstance(header, tensor_pb2.StepFrame)
        sent = header.refs[0].xxh3_64 if is_small else header.xxh3_64
        if (is_small or header.last) and self._digest.intdigest() != sent:
            raise ChecksumError("a weight's bytes are not those that were sent")
        return payload

    def finish(self) -> None:
        """Says that the stream has ended.

        Raises:
            StreamingError: bytes are missing.
        """
        if self.plan is None or self._received_bytes != self.plan.length_bytes:
            raise StreamingError("the weight's stream ended before its last byte")
