"""How the parts of a block read the residual stream, and gradients taken back that way, head by head.

An edge's gradient is that at the input of a receiver before its norm, where the queries, keys and values of every head
have an input of their own (`use_split_qkv_input` and `use_hook_mlp_in` of TransformerLens). No run with split inputs is
needed for it: the gradient at a head's projection goes back through the head's part of the matrix, and through the norm
of the run. That costs one more multiplication with the projections' matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.attributions.norms import ClosedFormNorm, backpropagate_norm
from neuroscope_inference.engine.hook_plan import PointIndex

HeadMatrix = Callable[[], mx.array]
"""Makes (heads, d_head, d_model) from the weights."""


@dataclass(frozen=True, slots=True)
class ReceiverProjection:
    """One of the outputs of a reading.

    Args:
        point: whose gradient is taken (rows, positions, heads, d_head), or (rows, positions, d_model) without a matrix.
        matrix: makes (heads, d_head, d_model); None: the point is what the norm gives.
    """

    point: PointIndex
    matrix: HeadMatrix | None = None

    def backpropagate(self, gradient: mx.array) -> mx.array:
        """The gradient at what the norm gives (rows, heads, positions, d_model); one head without a matrix."""
        if self.matrix is None:
            return gradient[:, None]
        return gradient.swapaxes(1, 2) @ self.matrix()


@dataclass(frozen=True, slots=True)
class ReceiverGroup:
    """One reading of the stream by receivers that share a norm.

    Args:
        stream: where the stream is read.
        norm: what it passes; None: it is read as it is.
        projections: of what the norm gives.
        sender_count: the first so many senders have written by then.
    """

    stream: PointIndex
    norm: nn.Module | None
    projections: Sequence[ReceiverProjection]
    sender_count: int

    def gradients(
        self, seen: Mapping[PointIndex, mx.array], gradients: Mapping[PointIndex, mx.array], positions: slice
    ) -> mx.array:
        """At the inputs of the receivers (rows, receivers, positions, d_model), float32, lazy."""
        cut = [(part, gradients[part.point][:, positions]) for part in self.projections]
        if self.norm is None:
            return _concatenate([part.backpropagate(gradient) for part, gradient in cut])
        stream = seen[self.stream][:, positions]
        known = ClosedFormNorm.from_module(self.norm, stream)
        if known is not None and all(part.matrix is not None for part in self.projections):
            return _concatenate([known.backpropagate(gradient, part.matrix()) for part, gradient in cut if part.matrix])
        together = _concatenate([part.backpropagate(gradient) for part, gradient in cut])
        return backpropagate_norm(self.norm, stream, together)


def _concatenate(parts: Sequence[mx.array]) -> mx.array:
    found = parts[0] if len(parts) == 1 else mx.concatenate(list(parts), axis=1)
    return found.astype(mx.float32)
