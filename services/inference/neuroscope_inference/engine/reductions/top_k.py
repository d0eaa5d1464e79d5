"""The largest elements."""

from __future__ import annotations

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, Shape, TensorPart

_NO_INDEX = -1


class TopK(Reduction):
    """The largest elements of the last axis, and their indices; in attention those are absolute key positions."""

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, k: int, *, is_pattern: bool) -> None:
        super().__init__(shape, dtype, wanted)
        self._k = k
        self._is_pattern = is_pattern

    @classmethod
    def from_message(
        cls, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, k: int, point: Point, field: str
    ) -> TopK:
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

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """Values and indices, largest first."""
        if part is None:
            return []
        array = part.array
        count = min(self._k, array.shape[-1])
        values, indices = largest(array, count)
        if part.key_positions:
            indices = mx.take(mx.array(part.key_positions, mx.int32), indices)
        indices = indices.astype(mx.int32)
        if count < self._k:
            widths = [(0, 0)] * (array.ndim - 1) + [(0, self._k - count)]
            lowest = 0 if self._is_pattern else mx.finfo(array.dtype).min
            values = mx.pad(values, widths, constant_values=mx.array(lowest, array.dtype))
            indices = mx.pad(indices, widths, constant_values=mx.array(_NO_INDEX, mx.int32))
        values = values.astype(self.wanted or self.dtype)
        return [ReducedPiece(found, part.first_position, part.positions) for found in (values, indices)]


def largest(array: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The largest elements of the last axis, largest first, and their indices."""
    descending = -array.astype(mx.float32)
    indices = mx.argpartition(descending, count - 1, axis=-1)[..., :count]
    order = mx.argsort(mx.take_along_axis(descending, indices, axis=-1), axis=-1)
    indices = mx.take_along_axis(indices, order, axis=-1)
    return mx.take_along_axis(array, indices, axis=-1), indices
