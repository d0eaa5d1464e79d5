"""The activation of one hook at one point. Received pieces are joined along the position axis on demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuroscope.errors import DataConversionError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.reductions import NAMES
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array, lowest, numpy_dtype
from neuroscope.wire.frames import TensorPiece

_BATCH_AXIS = 0


@dataclass(slots=True)
class _Row:
    """One row: the joined array, and pieces received since."""

    joined: Array | None = None
    positions: list[int] = field(default_factory=list[int])
    fresh: list[TensorPiece] = field(default_factory=list[TensorPiece])


class Activation:
    """The tensor of one entry of a plan, over all rows, chunks and steps.

    Attributes:
        hook_id: id of the hook.
        point: canonical component, layer, side.
        layer_name: the layer as spelt in the request, or the model's own path.
        axes: meaning of each axis, outermost first; the first is the batch.
        dtype: numpy type; `ml_dtypes.bfloat16` for bfloat16.
        reduced: name of the reduction, such as `norm`; empty for the tensor itself.
    """

    __slots__ = (
        "_key_axis",
        "_position_axis",
        "_rows",
        "axes",
        "dtype",
        "hook_id",
        "layer_name",
        "plan_index",
        "point",
        "reduced",
    )

    def __init__(self, spec: tensor_pb2.TensorSpec) -> None:
        self.plan_index = spec.plan_index
        self.hook_id = spec.hook_id
        self.point = Point.from_message(spec.site)
        self.layer_name = spec.layer_name
        self.axes = tuple(spec.axes)
        self.dtype = numpy_dtype(spec.dtype)
        self.reduced = NAMES.get(spec.reduced, "")
        self._position_axis = _index(self.axes, tensor_pb2.AXIS_POSITION)
        self._key_axis = _index(self.axes, tensor_pb2.AXIS_KEY_POSITION)
        self._rows: dict[int, _Row] = {}

    @property
    def name(self) -> str:
        """The point, with the reduction if there is one: `resid_post.5`, `resid_post.5:norm`."""
        return f"{self.point}:{self.reduced}" if self.reduced else str(self.point)

    def __repr__(self) -> str:
        shapes = ", ".join(str(self.shape(row)) for row in self.rows[:3]) + (", ..." if len(self.rows) > 3 else "")
        return f"Activation({self.name}, {shapes}, {self.dtype.name})"

    def add(self, piece: TensorPiece) -> None:
        """Adds a piece. Pieces of a row must be in order of their positions."""
        row = self._rows.get(piece.row)
        if row is None:
            row = self._rows[piece.row] = _Row()
        row.fresh.append(piece)

    def put(self, row: int, array: Array, positions: Sequence[int]) -> None:
        """Sets a whole row to an array as returned by `row`."""
        if self._position_axis is None and array.ndim == len(self.axes):
            array = array[:, None]
        self._rows[row] = _Row(array, list(positions))

    def only(self, row: int) -> Activation:
        """A view with one row, as row 0."""
        one = copy(self)
        one._rows = {0: self._rows[row]} if row in self._rows else {}
        return one

    @property
    def rows(self) -> list[int]:
        """Indices of the rows with data."""
        return sorted(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        rows = self._rows.values()
        return sum(_size(row.joined) + sum(piece.array.nbytes for piece in row.fresh) for row in rows)

    def row(self, row: int) -> Array:
        """One row, (1, ...), joined over chunks and steps along the position axis.

        A single piece is a read-only view of the received message. Several pieces of a tensor without a position axis
        are stacked along a new second axis. In attention, the key axis is as long as that of the longest piece; missing
        keys of earlier queries are 0 in patterns and the least number of the dtype in scores.
        """
        state = self._rows[row]
        if state.fresh:
            state.positions.extend(
                position for piece in state.fresh for position in _positions(piece, self._position_axis)
            )
            state.joined = self._join(state)
            state.fresh = []
        assert state.joined is not None
        if self._position_axis is None:
            return state.joined[:, 0] if state.joined.shape[1] == 1 else state.joined
        return state.joined

    def array(self) -> Array:
        """All rows, (batch, ...).

        Raises:
            DataConversionError: rows have different lengths.
        """
        arrays = [self.row(row) for row in self.rows]
        if len(arrays) == 1:
            return arrays[0]
        if len({array.shape for array in arrays}) > 1:
            lengths = ", ".join(str(len(self.positions(row))) for row in self.rows)
            raise DataConversionError(
                f"the rows of {self.point} have different lengths ({lengths}) and make no array;"
                f" take them one by one: cache.row({self.rows[0]})[...]"
            )
        return np.concatenate(arrays, axis=_BATCH_AXIS)

    def positions(self, row: int) -> list[int]:
        """Absolute token positions along the position axis."""
        state = self._rows[row]
        fresh = (position for piece in state.fresh for position in _positions(piece, self._position_axis))
        return [*state.positions, *fresh]

    def shape(self, row: int) -> tuple[int, ...]:
        """Shape of a row without joining it."""
        state = self._rows[row]
        if not state.fresh:
            return self.row(row).shape
        shapes = [piece.array.shape for piece in state.fresh]
        if self._position_axis is None:
            count = len(state.positions) + len(shapes)
            if self._key_axis is not None and count > 1:
                return self.row(row).shape
            return shapes[0] if count == 1 else (shapes[0][0], count, *shapes[0][1:])
        extents = list(shapes[0])
        extents[self._position_axis] = len(self.positions(row))
        if self._key_axis is not None:
            joined = 0 if state.joined is None else state.joined.shape[self._key_axis]
            extents[self._key_axis] = max(joined, *(self._key_count(piece) for piece in state.fresh))
        return tuple(extents)

    def _join(self, state: _Row) -> Array:
        pieces = state.fresh
        if self._position_axis is None:
            arrays = [*(() if state.joined is None else (state.joined,)), *(piece.array[:, None] for piece in pieces)]
            if self._key_axis is not None:
                arrays = _widened(arrays, self._key_axis + 1)
            return _concatenate(None, arrays, axis=1)
        if self._key_axis is None:
            return _concatenate(state.joined, [piece.array for piece in pieces], axis=self._position_axis)
        return self._join_attention(state, self._position_axis, self._key_axis)

    def _join_attention(self, state: _Row, query_axis: int, key_axis: int) -> Array:
        first = state.fresh[0]
        if state.joined is None and len(state.fresh) == 1 and not first.key_positions:
            return first.array
        extents = list(first.array.shape)
        joined = 0 if state.joined is None else state.joined.shape[key_axis]
        extents[key_axis] = max(joined, *(self._key_count(piece) for piece in state.fresh))
        extents[query_axis] = len(state.positions)
        out = np.full(extents, self._fill(), self.dtype)
        begin = 0
        if state.joined is not None:
            begin = state.joined.shape[query_axis]
            out[_at(len(extents), {query_axis: slice(0, begin), key_axis: slice(0, joined)})] = state.joined
        for piece in state.fresh:
            end = begin + piece.array.shape[query_axis]
            source, target = _columns(piece.key_positions, piece.array.shape[key_axis])
            index = _at(len(extents), {query_axis: slice(begin, end), key_axis: target})
            out[index] = piece.array[_at(len(extents), {key_axis: source})]
            begin = end
        return out

    def _key_count(self, piece: TensorPiece) -> int:
        assert self._key_axis is not None
        return max(piece.key_positions) + 1 if piece.key_positions else piece.array.shape[self._key_axis]

    def _fill(self) -> Any:
        if self.point.component == "attention_scores" and not np.issubdtype(self.dtype, np.integer):
            return lowest(self.dtype)
        return 0


def _columns(key_positions: Sequence[int], count: int) -> tuple[slice | list[int], slice | list[int]]:
    """Source and target of a piece's key columns. A rotating cache has empty slots and another order."""
    if not key_positions:
        return slice(0, count), slice(0, count)
    source = [index for index, position in enumerate(key_positions) if position >= 0]
    return source, [key_positions[index] for index in source]


def _positions(piece: TensorPiece, axis: int | None) -> Sequence[int]:
    if axis is None:
        return (piece.first_position,)
    return piece.positions or range(piece.first_position, piece.first_position + piece.array.shape[axis])


def _concatenate(joined: Array | None, arrays: Iterable[Array], axis: int) -> Array:
    parts = list(arrays) if joined is None else [joined, *arrays]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _widened(arrays: list[Array], axis: int) -> list[Array]:
    """Pads arrays with zeros to equal extents along an axis."""
    width = max(array.shape[axis] for array in arrays)
    missing = [width - array.shape[axis] for array in arrays]
    return [
        np.pad(array, [(0, count if index == axis else 0) for index in range(array.ndim)]) if count else array
        for array, count in zip(arrays, missing, strict=True)
    ]


def _at(ndim: int, indices: dict[int, slice | list[int]]) -> tuple[slice | list[int], ...]:
    return tuple(indices.get(axis, slice(None)) for axis in range(ndim))


def _index(axes: Sequence[int], axis: int) -> int | None:
    return list(axes).index(axis) if axis in axes else None


def _size(array: Array | None) -> int:
    return 0 if array is None else array.nbytes
