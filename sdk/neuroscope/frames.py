"""Tensors into frames and back: packing, slicing, checksums, order.

`pack` is what a sender does with the tensors of one step; `FrameReader` is what a receiver does with the frames of one
stream. Both know shapes and bytes, and nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from neuroscope.codec import ALIGNMENT_BYTES, Framed
from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.tensors import Array, numpy_dtype
from neuroscope.v1 import tensor_pb2

SLICE_BYTES = 512 * 1024
"""Tensors above this travel alone, in slices of this size; packed frames stay near it."""
_MAX_REFS = 1024


@dataclass(slots=True)
class Outgoing:
    """A tensor to send: its place in the plan and its bytes, row-major and contiguous."""

    plan_index: int
    row: int
    shape: Sequence[int]
    first_position: int
    data: memoryview  # of bytes
    positions: Sequence[int] = ()
    key_positions: Sequence[int] = ()


@dataclass(slots=True)
class Digest:
    """Running account of one tensor of a plan in one row, for the manifest."""

    piece_count: int = 0
    position_count: int = 0
    length_bytes: int = 0
    hash: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)

    def add(self, checksum: int, length_bytes: int, positions: int) -> None:
        """Counts a piece in."""
        self.piece_count += 1
        self.position_count += positions
        self.length_bytes += length_bytes
        self.hash.update(checksum.to_bytes(8, "little"))

    @property
    def checksum(self) -> int:
        """XXH3-64 of the pieces' checksums."""
        return self.hash.intdigest()


@dataclass(slots=True)
class FramePacker:
    """Numbers and packs the frames of one stream, and keeps the digests for its manifest."""

    specs: Sequence[tensor_pb2.TensorSpec]
    frame_count: int = 0
    digests: dict[tuple[int, int], Digest] = field(default_factory=dict)  # by (plan_index, row)

    def pack(self, step: int, tensors: Iterable[Outgoing]) -> Iterator[Framed]:
        """The frames of one step or chunk: small tensors together, large ones alone and sliced."""
        refs: list[tensor_pb2.TensorRef] = []
        parts: list[memoryview] = []
        offset = 0
        for tensor in tensors:
            if tensor.data.nbytes > SLICE_BYTES:
                yield from self._slices(step, tensor)
                continue
            if refs and (offset + tensor.data.nbytes > SLICE_BYTES or len(refs) == _MAX_REFS):
                yield self._step_frame(step, refs, parts)
                refs, parts, offset = [], [], 0
            gap = -offset % ALIGNMENT_BYTES
            if gap:
                parts.append(memoryview(bytes(gap)))
                offset += gap
            checksum = xxhash.xxh3_64_intdigest(tensor.data)
            self._count(tensor, checksum)
            refs.append(_ref(tensor, offset, checksum))
            parts.append(tensor.data)
            offset += tensor.data.nbytes
        if refs:
            yield self._step_frame(step, refs, parts)

    def _step_frame(self, step: int, refs: list[tensor_pb2.TensorRef], parts: list[memoryview]) -> Framed:
        return Framed(tensor_pb2.StepFrame(sequence=self._next(), step=step, refs=refs), parts)

    def _slices(self, step: int, tensor: Outgoing) -> Iterator[Framed]:
        running = xxhash.xxh3_64()
        total = tensor.data.nbytes
        for start in range(0, total, SLICE_BYTES):
            part = tensor.data[start : start + SLICE_BYTES]
            running.update(part)
            last = start + SLICE_BYTES >= total
            if last:
                self._count(tensor, running.intdigest())
            yield Framed(
                tensor_pb2.TensorFrame(
                    sequence=self._next(),
                    step=step,
                    ref=_ref(tensor, 0, 0)
                    if start == 0
                    else tensor_pb2.TensorRef(plan_index=tensor.plan_index, row=tensor.row),
                    offset_bytes=start,
                    last=last,
                    xxh3_64=running.intdigest() if last else 0,
                ),
                (part,),
            )

    def _count(self, tensor: Outgoing, checksum: int) -> None:
        digest = self.digests.setdefault((tensor.plan_index, tensor.row), Digest())
        positions = _extent(self.specs[tensor.plan_index], tensor.shape)
        digest.add(checksum, tensor.data.nbytes, positions)

    def _next(self) -> int:
        self.frame_count += 1
        return self.frame_count - 1


@dataclass(frozen=True, slots=True)
class TensorPiece:
    """A received tensor of one step or chunk.

    `array` is a read-only view of the message's bytes where the tensor came packed. Its axes are `spec.axes`.
    """

    spec: tensor_pb2.TensorSpec
    row: int
    step: int
    first_position: int
    array: Array
    checksum: int
    positions: tuple[int, ...] = ()
    key_positions: tuple[int, ...] = ()


class FrameReader:
    """Turns the frames of one stream into tensors; checks their order and their bytes.

    Raises (from `read`):
        StreamingError: a frame is missing or out of order.
        ChecksumError: the bytes of a tensor are not those that were sent.
    """

    def __init__(self, plan: tensor_pb2.TensorPlan) -> None:
        self.plan = plan
        self.digests: dict[tuple[int, int], Digest] = {}
        self._sequence = 0
        self._pending: tuple[tensor_pb2.TensorRef, Array] | None = None
        self._axis = [_position_axis(spec) for spec in plan.tensors]

    def read(self, framed: Framed) -> list[TensorPiece]:
        """The tensors that this frame completes."""
        frame = framed.frame
        if frame.sequence != self._sequence:
            raise StreamingError(f"frame {frame.sequence} came where frame {self._sequence} was due")
        self._sequence += 1
        payload = framed.payload
        if isinstance(frame, tensor_pb2.TensorFrame):
            piece = self._slice(frame, payload)
            return [] if piece is None else [piece]
        return [
            self._piece(ref, frame.step, payload[ref.offset_bytes : ref.offset_bytes + ref.length_bytes], ref.xxh3_64)
            for ref in frame.refs
        ]

    def _slice(self, frame: tensor_pb2.TensorFrame, payload: memoryview) -> TensorPiece | None:
        if frame.offset_bytes == 0:
            self._pending = (frame.ref, np.empty(frame.ref.length_bytes, np.uint8))
        if self._pending is None:
            raise StreamingError("a tensor's slices began in the middle")
        ref, buffer = self._pending
        buffer[frame.offset_bytes : frame.offset_bytes + payload.nbytes] = np.frombuffer(payload, np.uint8)
        if not frame.last:
            return None
        self._pending = None
        return self._piece(ref, frame.step, memoryview(buffer), frame.xxh3_64)

    def _piece(self, ref: tensor_pb2.TensorRef, step: int, data: memoryview, checksum: int) -> TensorPiece:
        spec = self.plan.tensors[ref.plan_index]
        if xxhash.xxh3_64_intdigest(data) != checksum:
            raise ChecksumError(f"the bytes of {spec.hook_id!r} in step {step}, row {ref.row} were changed on the way")
        dtype = numpy_dtype(spec.dtype)
        array = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize).reshape(tuple(ref.shape))
        digest = self.digests.setdefault((ref.plan_index, ref.row), Digest())
        axis = self._axis[ref.plan_index]
        digest.add(checksum, ref.length_bytes, 0 if axis is None else ref.shape[axis])
        return TensorPiece(
            spec, ref.row, step, ref.first_position, array, checksum, tuple(ref.positions), tuple(ref.key_positions)
        )


def _ref(tensor: Outgoing, offset: int, checksum: int) -> tensor_pb2.TensorRef:
    return tensor_pb2.TensorRef(
        plan_index=tensor.plan_index,
        row=tensor.row,
        shape=tensor.shape,
        first_position=tensor.first_position,
        offset_bytes=offset,
        length_bytes=tensor.data.nbytes,
        xxh3_64=checksum,
        positions=tensor.positions,
        key_positions=tensor.key_positions,
    )


def _position_axis(spec: tensor_pb2.TensorSpec) -> int | None:
    axes = list(spec.axes)
    return axes.index(tensor_pb2.AXIS_POSITION) if tensor_pb2.AXIS_POSITION in axes else None


def _extent(spec: tensor_pb2.TensorSpec, shape: Sequence[int]) -> int:
    axis = _position_axis(spec)
    return 0 if axis is None else shape[axis]
