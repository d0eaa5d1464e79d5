"""Dot products with directions."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.arrays import from_numpy
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, Shape, TensorPart


class Projection(Reduction):
    """Dot products of the last axis with directions (count, width)."""

    def __init__(self, shape: Shape, dtype: mx.Dtype, wanted: mx.Dtype | None, directions: Array) -> None:
        super().__init__(shape, dtype, wanted)
        self._directions = directions
        self._columns: mx.array | None = None  # (width, count), made on the engine's thread

    @classmethod
    def from_message(
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

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """The dot products of the part."""
        if part is None:
            return []
        if self._columns is None:
            self._columns = from_numpy(self._directions).T
        products = part.array.astype(mx.float32) @ self._columns
        return [ReducedPiece(products.astype(self.wanted or mx.float32), part.first_position, part.positions)]
