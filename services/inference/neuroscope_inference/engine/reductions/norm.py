"""The L2 norm."""

from __future__ import annotations

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, TensorPart


class L2Norm(Reduction):
    """The L2 norm over the last axis."""

    def outputs(self) -> list[Output]:
        """The norms, without the last axis."""
        return [Output(tensor_pb2.REDUCED_NORM, self.shape.without(-1), self.wanted or mx.float32)]

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """The norms of the part."""
        if part is None:
            return []
        norm = mx.sqrt(mx.square(part.array.astype(mx.float32)).sum(axis=-1))
        return [ReducedPiece(norm.astype(self.wanted or mx.float32), part.first_position, part.positions)]
