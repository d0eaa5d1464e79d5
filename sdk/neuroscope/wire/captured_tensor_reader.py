"""The stream of one tensor out of what a service keeps. Does no input or output itself."""

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
    """The stream of one captured tensor: its header, then its bytes."""

    def __init__(self) -> None:
        self.header: pb.CapturedTensorHeader | None = None
        self._digest = xxhash.xxh3_64()
        self._received_bytes = 0

    def feed(self, event: Event) -> memoryview | None:
        """Takes an event in; gives the bytes that it carries.

        Raises:
            ChecksumError: they are not what was sent.
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
            raise ChecksumError("a tensor's bytes are not those that were sent")
        return payload

    def finish(self) -> pb.CapturedTensorHeader:
        """The header, once the stream has ended.

        Raises:
            StreamingError: bytes are missing.
        """
        if self.header is None or self._received_bytes != self.header.following_bytes:
            raise StreamingError("the tensor's stream ended before its last byte")
        return self.header

    def array(self, parts: Sequence[memoryview]) -> Array:
        """The tensor, once the stream has ended; read-only."""
        header = self.finish()
        data = b"".join(parts)
        return np.frombuffer(data, tensors.numpy_dtype(header.dtype)).reshape(tuple(header.shape))
