"""Reductions of captured tensors inside the model's graph: less is sent, and nothing is computed twice.

A reduction says which entries of the plan it makes, and turns the selected part of a site's tensor into their arrays.
Sums run in float32, whatever the model computes in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.sites import Point
from neuroscope.tensors import Array
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope_inference.engine.arrays import of_numpy

_NO_INDEX = -1


@dataclass(frozen=True, slots=True)
class Shape:
    """Axes of a tensor and their extents; -1 where it differs from step to step."""

    axes: tuple[tensor_pb2.Axis.ValueType, ...]
    extents: tuple[int, ...]

    def without(self, axis: int) -> Shape:
        """All axes but one."""
        index = axis % len(self.axes)
        return Shape(self.axes[:index] + self.axes[index + 1 :], self.extents[:index] + self.extents[index + 1 :])

    def ending_with(self, axis: tensor_pb2.Axis.ValueType, extent: int) -> Shape:
        """Another last axis."""
        return Shape((*self.axes[:-1], axis), (*self.extents[:-1], extent))


@dataclass(frozen=True, slots=True)
class Output:
    """An entry of the plan that a reduction makes."""

    reduced: tensor_pb2.Reduced.ValueType
    shape: Shape
    dtype: mx.Dtype


@dataclass(frozen=True, slots=True)
class Part:
    """The selected part of a site's tensor in one forward pass."""

    array: mx.array
    first_position: int
    positions: tuple[int, ...]  # empty: contiguous
    key_positions: tuple[int, ...]  # empty: column j is position j


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes of a part: an array to send, or one that only has to be evaluated with the step."""

    array: mx.array
    first_position: int
    positions: tuple[int, ...] = ()
    is_sent: bool = True


class Reduction(ABC):
    """A reduction of one hook at one point.

    Args:
        shape: of the tensor before the reduction.
        dtype: its element type.
        wanted: type to cast the result to; None: the reduction's own.
    """

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.wanted = wanted

    @abstractmethod
    def outputs(self) -> list[Output]:
        """The entries of the plan."""

    @abstractmethod
    def reduce(self, part: Part | None, row: int, *, ends_step: bool) -> list[Piece]:
        """A piece for each entry of the plan, or none.

        Args:
            part: what was selected; None: nothing in this forward pass.
            row: prompt of the request.
            ends_step: whether no further chunk of the step comes.
        """

    def checkpoint(self, row: int) -> Callable[[], None]:
        """What brings a row back to where it is now; nothing where chunks do not depend on each other."""
        return lambda: None


class MeanOverPositions(Reduction):
    """The mean over all selected positions of a step; chunks of a prefill are summed up until the last one."""

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None) -> None:
        super().__init__(shape, dtype, wanted)
        self._axis = shape.axes.index(tensor_pb2.AXIS_POSITION)
        self._has_keys = tensor_pb2.AXIS_KEY_POSITION in shape.axes
        self._sums: dict[int, tuple[mx.array, int, int]] = {}  # by row: sum, count, first position

    def outputs(self) -> list[Output]:
        """The mean, without a position axis."""
        return [Output(tensor_pb2.REDUCED_MEAN, self.shape.without(self._axis), self.wanted or mx.float32)]

    def checkpoint(self, row: int) -> Callable[[], None]:
        """Brings the sum of a row back."""
        kept = {row: self._sums[row]} if row in self._sums else {}

        def restore() -> None:
            self._sums.pop(row, None)
            self._sums.update(kept)

        return restore

    def reduce(self, part: Part | None, row: int, *, ends_step: bool) -> list[Piece]:
        """The sum so far, which is not sent, or the mean at the end of the step."""
        if part is not None:
            total = part.array.astype(mx.float32).sum(axis=self._axis)
            if self._has_keys:
                total = _by_key_position(total, part.key_positions)
            count, first = part.array.shape[self._axis], part.first_position
            if row in self._sums:
                earlier, earlier_count, first = self._sums[row]
                total, count = _sum(earlier, total), count + earlier_count
            self._sums[row] = total, count, first
        if row not in self._sums or (part is None and not ends_step):
            return []
        if not ends_step:
            total, _, first = self._sums[row]
            return [Piece(total, first, is_sent=False)]
        total, count, first = self._sums.pop(row)
        return [Piece((total / count).astype(self.wanted or mx.float32), first)]


class Norm(Reduction):
    """The L2 norm over the last axis."""

    def outputs(self) -> list[Output]:
        """The norms, without the last axis."""
        return [Output(tensor_pb2.REDUCED_NORM, self.shape.without(-1), self.wanted or mx.float32)]

    def reduce(self, part: Part | None, row: int, *, ends_step: bool) -> list[Piece]:
        """The norms of the part."""
        if part is None:
            return []
        norm = mx.sqrt(mx.square(part.array.astype(mx.float32)).sum(axis=-1))
        return [Piece(norm.astype(self.wanted or mx.float32), part.first_position, part.positions)]


class TopK(Reduction):
    """The largest elements of the last axis, and their indices; in attention those are absolute key positions."""

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, k: int, *, is_pattern: bool) -> None:
        super().__init__(shape, dtype, wanted)
        self._k = k
        self._is_pattern = is_pattern

    @classmethod
    def of(cls, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, k: int, point: Point, field: str) -> TopK:
        """Checks k.

        Raises:
            InvalidRequestError: k is 0, or more than the axis has.
        """
        extent = shape.extents[-1]
        if k < 1 or (extent >= 0 and k > extent):
            most = f"{extent} elements" if extent >= 0 else "any number of keys"
            raise InvalidRequestError(
                f"top_k takes at least 1; the last axis of {point} has {most}", field=f"{field}.k"
            )
        return cls(shape, dtype, wanted, k, is_pattern=point.component == "attention_pattern")

    def outputs(self) -> list[Output]:
        """The values, then the indices."""
        shape = self.shape.ending_with(tensor_pb2.AXIS_RANK, self._k)
        return [
            Output(tensor_pb2.REDUCED_TOP_K, shape, self.wanted or self.dtype),
            Output(tensor_pb2.REDUCED_TOP_K_INDICES, shape, mx.int32),
        ]

    def reduce(self, part: Part | None, row: int, *, ends_step: bool) -> list[Piece]:
        """Values and indices, largest first."""
        if part is None:
            return []
        array = part.array
        count = min(self._k, array.shape[-1])
        descending = -array.astype(mx.float32)
        indices = mx.argpartition(descending, count - 1, axis=-1)[..., :count]
        order = mx.argsort(mx.take_along_axis(descending, indices, axis=-1), axis=-1)
        indices = mx.take_along_axis(indices, order, axis=-1)
        values = mx.take_along_axis(array, indices, axis=-1)
        if part.key_positions:
            indices = mx.take(mx.array(part.key_positions, mx.int32), indices)
        indices = indices.astype(mx.int32)
        if count < self._k:
            widths = [(0, 0)] * (array.ndim - 1) + [(0, self._k - count)]
            lowest = 0 if self._is_pattern else mx.finfo(array.dtype).min
            values = mx.pad(values, widths, constant_values=mx.array(lowest, array.dtype))
            indices = mx.pad(indices, widths, constant_values=mx.array(_NO_INDEX, mx.int32))
        values = values.astype(self.wanted or self.dtype)
        return [Piece(found, part.first_position, part.positions) for found in (values, indices)]


class Projection(Reduction):
    """Dot products of the last axis with directions (count, width)."""

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, directions: Array) -> None:
        super().__init__(shape, dtype, wanted)
        self._directions = directions
        self._columns: mx.array | None = None  # (width, count), made on the engine's thread

    @classmethod
    def of(
        cls, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, directions: Array, point: Point, field: str
    ) -> Projection:
        """Checks the directions.

        Raises:
            InvalidRequestError: they are not (count, width of the last axis).
            DataConversionError: a number of them is too large for float32.
        """
        width = shape.extents[-1]
        if directions.ndim != 2 or directions.shape[1] != width:
            raise InvalidRequestError(
                f"directions for {point} have the shape (count, {width}), not {tuple(directions.shape)}",
                field=f"{field}.directions",
            )
        with np.errstate(over="ignore"):
            single = directions.astype(np.float32)
        if not np.isfinite(single).all():
            raise DataConversionError("a direction is too large for float32", field=f"{field}.directions")
        return cls(shape, dtype, wanted, single)

    def outputs(self) -> list[Output]:
        """The dot products, a direction each along the last axis."""
        shape = self.shape.ending_with(tensor_pb2.AXIS_DIRECTION, self._directions.shape[0])
        return [Output(tensor_pb2.REDUCED_PROJECTION, shape, self.wanted or mx.float32)]

    def reduce(self, part: Part | None, row: int, *, ends_step: bool) -> list[Piece]:
        """The dot products of the part."""
        if part is None:
            return []
        if self._columns is None:
            self._columns = of_numpy(self._directions).T
        products = part.array.astype(mx.float32) @ self._columns
        return [Piece(products.astype(self.wanted or mx.float32), part.first_position, part.positions)]


def reduction_of(
    message: inference_pb2.Reduction,
    point: Point,
    shape: Shape,
    dtype: mx.Dtype,
    wanted: mx.Dtype | None,
    directions: Array | None,
    field: str,
) -> Reduction | None:
    """The reduction of a hook; None if it has none.

    Args:
        message: the hook's reduction.
        point: where it reads.
        shape: of the selected tensor, before the reduction.
        dtype: its element type.
        wanted: type to cast the result to.
        directions: of a projection, resolved.
        field: the reduction's path in the request.

    Raises:
        InvalidRequestError: it makes no sense at that point, or its argument is wrong.
        DataConversionError: directions cannot be used.
    """
    kind = message.WhichOneof("kind")
    if point.component == "attention_scores" and kind in ("mean", "norm"):
        raise InvalidRequestError(
            f"masked scores hold the lowest number there is, so they have no {kind}; reduce attention_pattern",
            field=field,
        )
    match kind:
        case None:
            return None
        case "mean":
            return MeanOverPositions(shape, dtype, wanted)
        case "norm":
            return Norm(shape, dtype, wanted)
        case "top_k":
            return TopK.of(shape, dtype, wanted, message.top_k.k, point, f"{field}.top_k")
        case "projection":
            if shape.axes[-1] == tensor_pb2.AXIS_KEY_POSITION:
                raise InvalidRequestError(
                    f"the last axis of {point} counts keys, and has no directions", field=f"{field}.projection"
                )
            assert directions is not None
            return Projection.of(shape, dtype, wanted, directions, point, f"{field}.projection")


def _by_key_position(total: mx.array, key_positions: Sequence[int]) -> mx.array:
    """Columns in the order of absolute positions; empty slots of a rotating cache are left out."""
    if not key_positions:
        return total
    columns = [column for column, position in enumerate(key_positions) if position >= 0]
    ordered = mx.zeros((*total.shape[:-1], max(key_positions) + 1), total.dtype)
    ordered[..., mx.array([key_positions[column] for column in columns])] = mx.take(total, mx.array(columns), axis=-1)
    return ordered


def _sum(one: mx.array, other: mx.array) -> mx.array:
    """The sum of arrays whose last axes may differ in length: what is missing is 0."""
    width = max(one.shape[-1], other.shape[-1])
    padded = [
        x if x.shape[-1] == width else mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        for x in (one, other)
    ]
    return padded[0] + padded[1]
