"""TensorService: uploads that interventions and reductions refer to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import xxhash
from opentelemetry.context import Context

from neuroscope.errors import ChecksumError, InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope_inference.tensor_checks import tensor_nbytes
from neuroscope_inference.tensor_store import TensorStore


class TensorServicer:
    """Implements neuroscope.v1.TensorService."""

    def __init__(self, store: TensorStore) -> None:
        self._store = store

    async def PutTensor(self, requests: AsyncIterator[Event], context: Context) -> pb.PutTensorResponse:
        """Stores a tensor; a wrong or superfluous one is refused by its header, before its bytes are taken in."""
        header = await _header(requests)
        nbytes = tensor_nbytes(header.dtype, header.shape, "header")
        self._store.lifetime_s(header.time_to_live_ms, "header.time_to_live_ms")
        with self._store.reserve(nbytes):
            data = await _payload(requests, nbytes)
            stored = await asyncio.to_thread(
                self._store.put, header.dtype, list(header.shape), data, header.time_to_live_ms
            )
        return pb.PutTensorResponse(
            tensor_id=stored.tensor_id,
            length_bytes=stored.array.nbytes,
            expires_at_ms=int(1e3 * stored.expires_at_s),
        )


async def _header(requests: AsyncIterator[Event]) -> pb.TensorHeader:
    first = await anext(requests, None)
    if not isinstance(first, pb.PutTensorRequest) or not first.HasField("header"):
        raise InvalidRequestError("an upload begins with its header", field="header")
    return first.header


async def _payload(requests: AsyncIterator[Event], nbytes: int) -> bytearray:
    """The bytes of the frames, which come in order, without a gap, and fill the tensor."""
    data = bytearray(nbytes)
    digest = xxhash.xxh3_64()
    end = 0
    last: tensor_pb2.TensorFrame | None = None
    async for request in requests:
        frame, payload = _frame(request)
        if last is not None:
            raise InvalidRequestError("a frame came after the last one", field="tensor_frame.last")
        if frame.offset_bytes != end:
            raise InvalidRequestError(
                f"a frame begins at byte {frame.offset_bytes} where byte {end} was due",
                field="tensor_frame.offset_bytes",
            )
        if end + payload.nbytes > nbytes:
            raise InvalidRequestError(
                f"the frames have more than the {nbytes} bytes of the header's shape", field="tensor_frame.data"
            )
        data[end : end + payload.nbytes] = payload
        digest.update(payload)
        end += payload.nbytes
        last = frame if frame.last else None
    if last is None:
        raise InvalidRequestError(
            f"the upload ended after {end} bytes, without a last frame", field="tensor_frame.last"
        )
    if end != nbytes:
        raise InvalidRequestError(
            f"the frames have {end} bytes, the header's shape has {nbytes}", field="tensor_frame.data"
        )
    if digest.intdigest() != last.xxh3_64:
        raise ChecksumError("the tensor's bytes are not those of its checksum", field="tensor_frame.xxh3_64")
    return data


def _frame(request: Event) -> tuple[tensor_pb2.TensorFrame, memoryview]:
    """A frame and its payload. In process it may come as a message that has never been serialised."""
    if isinstance(request, Frame) and isinstance(request.header, tensor_pb2.TensorFrame):
        frame, payload = request.header, request.payload
    elif isinstance(request, pb.PutTensorRequest) and request.HasField("tensor_frame"):
        frame, payload = request.tensor_frame, memoryview(request.tensor_frame.data)
    else:
        raise InvalidRequestError("after the header an upload has frames", field="tensor_frame")
    if frame.HasField("region"):
        raise InvalidRequestError("no memory is shared with this service", field="tensor_frame.region")
    return frame, payload
