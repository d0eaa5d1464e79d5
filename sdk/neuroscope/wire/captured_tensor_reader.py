"""Reads the stream of one tensor of a stored capture. Does no I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import tensors
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.codec import Event, Frame


class CapturedTensorReader:
    """Reads a stream of GetCapturedTensor: a header, then the tensor's bytes."""

    def __init__(self) -> None:
        self.header: pb.CapturedTensorHeader | None = None
        self._digest = xxhash.xxh3_64()
        self._received_bytes = 0

    def feed(self, event: Event) -> memoryview | None:
        """Reads an event and returns its bytes, None for the header.

        Raises:
            ChecksumError: the bytes do not match their checksum.
        """
        if isinstance(event, pb.GetCapturedTensorResponse):
            self.header = event.header
            return None
        assert isinstance(event, Frame)
        header, payload = event.header, event.payload
        assert isinstance(header, tensor_pb2.TensorFrame)
        self._digest.update(payload)
        self._received_bytes += payload.nbytes
        if header.last and self._digest.intdigest() != header.xxh3_64:
            raise ChecksumError("checksum mismatch: the tensor was corrupted in transit")
        return payload

    def finish(self) -> pb.CapturedTensorHeader:
        """Returns the header after the end of the stream.

        Raises:
            StreamingError: the stream ended before the tensor's last byte.
        """
        if self.header is None or self._received_bytes != self.header.following_bytes:
            raise StreamingError("the stream ended before the tensor's last byte")
        return self.header

    def array(self, parts: Sequence[memoryview]) -> Array:
        """Returns the tensor (1, ...) after the end of the stream, read-only. Errors are those of `finish`."""
        header = self.finish()
        data = b"".join(parts)
        return np.frombuffer(data, tensors.numpy_dtype(header.dtype)).reshape(tuple(header.shape))
