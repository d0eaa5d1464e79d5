"""The mean over positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, Shape, TensorPart


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

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """The sum so far, which is not sent, or the mean at the end of the step."""
        if part is not None:
            total = part.array.astype(mx.float32).sum(axis=self._axis)
            if self._has_keys:
                total = _sort_by_key_position(total, part.key_positions)
            count, first = part.array.shape[self._axis], part.first_position
            if row in self._sums:
                earlier, earlier_count, first = self._sums[row]
                total, count = _add_padded(earlier, total), count + earlier_count
            self._sums[row] = total, count, first
        if row not in self._sums or (part is None and not ends_step):
            return []
        if not ends_step:
            total, _, first = self._sums[row]
            return [ReducedPiece(total, first, is_sent=False)]
        total, count, first = self._sums.pop(row)
        return [ReducedPiece((total / count).astype(self.wanted or mx.float32), first)]


def _sort_by_key_position(total: mx.array, key_positions: Sequence[int]) -> mx.array:
    """Columns in the order of absolute positions; empty slots of a rotating cache are left out."""
    if not key_positions:
        return total
    columns = [column for column, position in enumerate(key_positions) if position >= 0]
    ordered = mx.zeros((*total.shape[:-1], max(key_positions) + 1), total.dtype)
    ordered[..., mx.array([key_positions[column] for column in columns])] = mx.take(total, mx.array(columns), axis=-1)
    return ordered


def _add_padded(one: mx.array, other: mx.array) -> mx.array:
    """The sum of arrays whose last axes may differ in length: what is missing is 0."""
    width = max(one.shape[-1], other.shape[-1])
    padded = [
        x if x.shape[-1] == width else mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        for x in (one, other)
    ]
    return padded[0] + padded[1]
