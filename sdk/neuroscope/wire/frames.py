"""Packs tensors into frames and reads them back, with sequence numbers and checksums.

`FramePacker` packs the tensors of each step; `FrameReader` reads the frames of one stream. Both know shapes and bytes,
and nothing of models. They run once per tensor and step, so they read each field of a message once: protobuf's field
access is most of the cost of a small tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash

from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array, numpy_dtype
from neuroscope.wire.codec import ALIGNMENT_BYTES, Frame

PACKED_BYTES = 512 * 1024
"""Tensors up to this size share frames of about this size; each larger tensor has frames of its own."""
SLICE_BYTES = 1024 * 1024
"""Largest payload of a large tensor's frame. With half of it, framing takes a fifth of the CPU time; with twice of it,
payloads no longer fit the processor's cache."""
_MAX_REFS = 1024
_hash = xxhash.xxh3_64_intdigest
_GAPS = [memoryview(bytes(size)) for size in range(ALIGNMENT_BYTES)]


@dataclass(slots=True)
class OutgoingTensor:
    """A tensor to send: its entry in the plan and its bytes, row-major and contiguous."""

    plan_index: int
    row: int
    shape: Sequence[int]
    first_position: int
    data: memoryview  # of bytes
    positions: Sequence[int] = ()
    key_positions: Sequence[int] = ()


@dataclass(slots=True)
class TensorPart:
    """Bytes of a large tensor that is sent in parts while it is being computed."""

    plan_index: int
    row: int
    shape: Sequence[int]
    offset_bytes: int
    length_bytes: int  # of the whole tensor
    data: memoryview  # of bytes


@dataclass(slots=True)
class TensorDigest:
    """Counts and checksum of one plan entry in one row, for the manifest."""

    piece_count: int = 0
    position_count: int = 0
    length_bytes: int = 0
    hash: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)

    def add(self, checksum: int, length_bytes: int, positions: int) -> None:
        """Adds a piece."""
        self.piece_count += 1
        self.position_count += positions
        self.length_bytes += length_bytes
        self.hash.update(checksum.to_bytes(8, "little"))

    @property
    def checksum(self) -> int:
        """XXH3-64 of the pieces' checksums."""
        return self.hash.intdigest()


def slice_frames(data: memoryview, slice_bytes: int = SLICE_BYTES) -> Iterator[Frame]:
    """Slices the bytes of one tensor into TensorFrames, numbered from 0; the last one carries the checksum."""
    running = xxhash.xxh3_64()
    for sequence, start in enumerate(range(0, data.nbytes, slice_bytes)):
        part = data[start : start + slice_bytes]
        running.update(part)
        header = tensor_pb2.TensorFrame(sequence=sequence, offset_bytes=start)
        if start + slice_bytes >= data.nbytes:
            header.last = True
            header.xxh3_64 = running.intdigest()
        yield Frame(header, (part,))


class FramePacker:
    """Packs the frames of one stream and keeps the digests for its manifest.

    Args:
        specs: the plan's entries.
        slice_bytes: largest payload of a large tensor's frame.

    Attributes:
        specs: the plan's entries.
        frame_count: frames packed so far.
        digests: digest of each tensor sent so far, by (plan_index, row).
    """

    def __init__(self, specs: Sequence[tensor_pb2.TensorSpec], slice_bytes: int = SLICE_BYTES) -> None:
        self.specs = specs
        self._slice_bytes = slice_bytes
        self.frame_count = 0
        self.digests: dict[tuple[int, int], TensorDigest] = {}
        self._axes = [_position_axis(spec) for spec in specs]
        # Reused messages with the fields that stay the same from step to step; a new one costs three times as much.
        self._refs: dict[tuple[int, int], tuple[Sequence[int], tensor_pb2.TensorRef]] = {}
        self._running = xxhash.xxh3_64()  # of the tensor that comes in parts

    def pack(self, step: int, tensors: Iterable[OutgoingTensor]) -> Iterator[Frame]:
        """Packs the tensors of one step or prefill chunk: small ones together, large ones sliced."""
        header = tensor_pb2.StepFrame(step=step)
        refs = header.refs
        count = 0
        parts: list[memoryview] = []
        offset = 0
        for tensor in tensors:
            data = tensor.data
            length = data.nbytes
            if length > PACKED_BYTES:
                yield from self._slices(step, tensor)
                continue
            if count and (offset + length > PACKED_BYTES or count == _MAX_REFS):
                header.sequence = self._next()
                yield Frame(header, parts)
                header = tensor_pb2.StepFrame(step=step)
                refs = header.refs
                count, parts, offset = 0, [], 0
            gap = -offset % ALIGNMENT_BYTES
            if gap:
                parts.append(_GAPS[gap])
                offset += gap
            checksum = _hash(data)
            self._count(tensor, checksum, length)
            refs.append(self._ref(tensor, offset, checksum))
            count += 1
            parts.append(data)
            offset += length
        if count:
            header.sequence = self._next()
            yield Frame(header, parts)

    def pack_part(self, step: int, part: TensorPart) -> Iterator[Frame]:
        """Packs one part of a tensor. Parts come in order, with no other tensor between them."""
        if part.offset_bytes == 0:
            self._running = xxhash.xxh3_64()
        for start in range(0, part.data.nbytes, self._slice_bytes):
            data = part.data[start : start + self._slice_bytes]
            self._running.update(data)
            offset = part.offset_bytes + start
            header = tensor_pb2.TensorFrame(sequence=self._next(), step=step, offset_bytes=offset)
            header.ref.plan_index, header.ref.row = part.plan_index, part.row
            if offset == 0:
                header.ref.shape.extend(part.shape)
                header.ref.length_bytes = part.length_bytes
            if offset + data.nbytes == part.length_bytes:
                header.last = True
                header.xxh3_64 = self._running.intdigest()
                self._count(part, header.xxh3_64, part.length_bytes)
            yield Frame(header, (data,))

    def _slices(self, step: int, tensor: OutgoingTensor) -> Iterator[Frame]:
        for frame in slice_frames(tensor.data, self._slice_bytes):
            header = frame.header
            assert isinstance(header, tensor_pb2.TensorFrame)
            header.sequence = self._next()
            header.step = step
            if header.offset_bytes == 0:
                header.ref.CopyFrom(self._ref(tensor, 0, 0))
            else:
                header.ref.plan_index = tensor.plan_index
                header.ref.row = tensor.row
            if header.last:
                self._count(tensor, header.xxh3_64, tensor.data.nbytes)
            yield frame

    def _ref(self, tensor: OutgoingTensor, offset: int, checksum: int) -> tensor_pb2.TensorRef:
        """The reference to a tensor. Copy it at once: the next tensor of the same plan entry and row reuses it."""
        key = tensor.plan_index, tensor.row
        shape, ref = self._refs.get(key, (None, None))
        if ref is None or shape != tensor.shape or len(tensor.positions) or len(tensor.key_positions):
            ref = tensor_pb2.TensorRef(
                plan_index=tensor.plan_index,
                row=tensor.row,
                shape=tensor.shape,
                length_bytes=tensor.data.nbytes,
                positions=tensor.positions,
                key_positions=tensor.key_positions,
            )
            if not len(tensor.positions) and not len(tensor.key_positions):
                self._refs[key] = tensor.shape, ref
        ref.first_position = tensor.first_position
        ref.offset_bytes = offset
        ref.xxh3_64 = checksum
        return ref

    def _count(self, tensor: OutgoingTensor | TensorPart, checksum: int, length_bytes: int) -> None:
        key = tensor.plan_index, tensor.row
        digest = self.digests.get(key)
        if digest is None:
            digest = self.digests[key] = TensorDigest()
        axis = self._axes[tensor.plan_index]
        digest.add(checksum, length_bytes, 0 if axis is None else tensor.shape[axis])

    def _next(self) -> int:
        self.frame_count += 1
        return self.frame_count - 1


@dataclass(slots=True, eq=False)
class TensorPiece:
    """A received tensor of one step or prefill chunk.

    `array` has the axes `spec.axes`. Of a small tensor it is a read-only view of the message's bytes.
    """

    spec: tensor_pb2.TensorSpec
    row: int
    step: int
    first_position: int
    array: Array
    checksum: int
    ref: tensor_pb2.TensorRef
    is_joined: bool = False
    """Whether `array` was joined from slices; it then owns its memory and need not be copied to be kept."""

    def __repr__(self) -> str:
        place = f"row {self.row}, step {self.step}, from position {self.first_position}"
        return f"TensorPiece({self.spec.hook_id!r}, {place}, {self.array.shape}, {self.array.dtype.name})"

    @property
    def positions(self) -> tuple[int, ...]:
        """Token positions along the position axis; empty if they are first_position, first_position + 1, ..."""
        return tuple(self.ref.positions)

    @property
    def key_positions(self) -> tuple[int, ...]:
        """Token positions of the key columns, -1 for an empty slot; empty if they are 0, 1, ..."""
        return tuple(self.ref.key_positions)


@dataclass(slots=True)
class _Entry:
    """Fields of a plan entry that the reader needs for each tensor."""

    spec: tensor_pb2.TensorSpec
    dtype: np.dtype[np.generic]
    axis: int | None
    digests: dict[int, TensorDigest] = field(default_factory=dict[int, TensorDigest])  # by row


@dataclass(slots=True)
class _Pending:
    """A large tensor whose last slice has not arrived."""

    ref: tensor_pb2.TensorRef
    buffer: memoryview
    hash: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)
    length_bytes: int = 0


class FrameReader:
    """Reads the frames of one stream as tensors and checks sequence numbers and checksums.

    Raises (from `read`):
        StreamingError: a frame is missing, out of order or malformed.
        ChecksumError: a tensor's bytes do not match their checksum.
    """

    def __init__(self, plan: tensor_pb2.TensorPlan) -> None:
        self.plan = plan
        self.digests: dict[tuple[int, int], TensorDigest] = {}
        self._entries = [_Entry(spec, numpy_dtype(spec.dtype), _position_axis(spec)) for spec in plan.tensors]
        self._sequence = 0
        self._pending: _Pending | None = None

    def read(self, frame: Frame) -> list[TensorPiece]:
        """Returns the tensors that a frame completes."""
        header = frame.header
        if header.sequence != self._sequence:
            raise StreamingError(f"received frame {header.sequence} where frame {self._sequence} was expected")
        self._sequence += 1
        payload = frame.payload
        if isinstance(header, tensor_pb2.TensorFrame):
            return self._slice(header, payload)
        step = header.step
        pieces: list[TensorPiece] = []
        for ref in header.refs:
            offset = ref.offset_bytes
            data = payload[offset : offset + ref.length_bytes]
            pieces.append(self._piece(ref, step, data, _hash(data), ref.xxh3_64))
        return pieces

    def _slice(self, header: tensor_pb2.TensorFrame, payload: memoryview) -> list[TensorPiece]:
        offset = header.offset_bytes
        pending = self._pending
        if offset == 0 and pending is None:
            ref = header.ref
            if header.last:  # one slice: no copy
                return [self._piece(ref, header.step, payload, _hash(payload), header.xxh3_64)]
            pending = self._pending = _Pending(ref, np.empty(ref.length_bytes, np.uint8).data)
        end = offset + payload.nbytes
        if pending is None or offset != pending.length_bytes or end > pending.buffer.nbytes:
            raise StreamingError(f"frame {header.sequence} is not the next slice of its tensor")
        pending.buffer[offset:end] = payload
        pending.hash.update(payload)
        pending.length_bytes = end
        if not header.last:
            return []
        self._pending = None
        data = pending.buffer[:end]
        piece = self._piece(pending.ref, header.step, data, pending.hash.intdigest(), header.xxh3_64)
        piece.is_joined = True
        return [piece]

    def _piece(self, ref: tensor_pb2.TensorRef, step: int, data: memoryview, received: int, sent: int) -> TensorPiece:
        row = ref.row
        try:
            entry = self._entries[ref.plan_index]
            if received != sent:
                raise ChecksumError(
                    f"checksum mismatch: {entry.spec.hook_id!r} of step {step}, row {row} was corrupted in transit"
                )
            shape = ref.shape[:]
            array = np.ndarray(shape, entry.dtype, data)
            length = array.nbytes
            if length != len(data):
                raise ValueError(f"{len(data)} bytes do not fill {entry.dtype.name} of shape {shape}")
            digest = entry.digests.get(row)
            if digest is None:
                digest = entry.digests[row] = self.digests[ref.plan_index, row] = TensorDigest()
            axis = entry.axis
            digest.add(sent, length, 0 if axis is None else shape[axis])
            return TensorPiece(entry.spec, row, step, ref.first_position, array, sent, ref)
        except (IndexError, ValueError, TypeError) as error:
            raise StreamingError(f"a tensor of step {step}, row {row} does not fit the plan: {error}") from None


def _position_axis(spec: tensor_pb2.TensorSpec) -> int | None:
    axes = list(spec.axes)
    return axes.index(tensor_pb2.AXIS_POSITION) if tensor_pb2.AXIS_POSITION in axes else None
