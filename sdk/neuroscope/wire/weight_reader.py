"""Reads the stream of one weight, byte for byte. Does no I/O."""

from __future__ import annotations

import xxhash

from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.wire.codec import Event, Frame


class WeightReader:
    """Reads a stream of ReadWeights with one weight: a plan, then the weight's bytes."""

    def __init__(self) -> None:
        self.plan: pb.WeightsPlan | None = None
        self._digest = xxhash.xxh3_64()
        self._received_bytes = 0

    @property
    def spec(self) -> tensor_pb2.TensorSpec:
        """Shape, dtype and axes of the weight.

        Raises:
            StreamingError: the plan has not arrived, or names several weights.
        """
        if self.plan is None or len(self.plan.tensors.tensors) != 1:
            raise StreamingError("the stream does not have the plan of exactly one weight")
        return self.plan.tensors.tensors[0]

    def feed(self, event: Event) -> memoryview | None:
        """Reads an event and returns its bytes, None for the plan.

        Raises:
            ChecksumError: the bytes do not match their checksum.
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
            raise ChecksumError("checksum mismatch: the weight was corrupted in transit")
        return payload

    def finish(self) -> None:
        """Checks the end of the stream.

        Raises:
            StreamingError: the stream ended before the weight's last byte.
        """
        if self.plan is None or self._received_bytes != self.plan.length_bytes:
            raise StreamingError("the stream ended before the weight's last byte")
