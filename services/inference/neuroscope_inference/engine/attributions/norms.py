"""Gradients taken back through the norm that receivers share, many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.hook_plan import plain_class


def backpropagate_norm(norm: nn.Module, stream: mx.array, gradients: mx.array) -> mx.array:
    """Gradients at a norm's input from those at its output, by the norm's own code.

    Args:
        norm: works on each position by itself.
        stream: its input (rows, positions, d_model).
        gradients: at its output (rows, receivers, positions, d_model).
    """

    def one(gradient: mx.array) -> mx.array:
        call: Any = norm
        return mx.vjp(call, [stream], [gradient])[1][0]

    return mx.vmap(one, in_axes=1, out_axes=1)(gradients)


@dataclass(frozen=True, slots=True)
class ClosedFormNorm:
    """A layer norm or an RMS norm at given inputs.

    With n the normed input before its weight w, and r what it was divided by, the gradient c at the output is
    (w c - mean(w c) - n mean(n w c)) / r at the input; an RMS norm has no second term. What can be said of the matrix
    behind the norm is said of the matrix, which is smaller than what receivers get of it.

    Args:
        normed: n (rows, positions, d_model), float32.
        inverse: 1 / r (rows, positions, 1).
        weight: w (d_model,), or None.
        is_centred: whether the mean is subtracted.
    """

    normed: mx.array
    inverse: mx.array
    weight: mx.array | None
    is_centred: bool

    @classmethod
    def from_module(cls, norm: nn.Module, stream: mx.array) -> ClosedFormNorm | None:
        """The norm at a stream (rows, positions, d_model); None if it is of another kind."""
        kind = plain_class(norm)
        if kind not in (nn.LayerNorm, nn.RMSNorm):
            return None
        known: Any = norm
        x = stream.astype(mx.float32)
        if kind is nn.LayerNorm:
            x = x - x.mean(axis=-1, keepdims=True)
        inverse = mx.rsqrt(mx.square(x).mean(axis=-1, keepdims=True) + known.eps)
        return cls(x * inverse, inverse, norm.get("weight"), kind is nn.LayerNorm)

    def fold(self, matrix: mx.array) -> mx.array:
        """A matrix behind the norm (..., d_model) as it meets the norm's input, which is yet to be divided; float32."""
        folded = matrix.astype(mx.float32)
        if self.weight is not None:
            folded = folded * self.weight.astype(mx.float32)
        return folded - folded.mean(axis=-1, keepdims=True) if self.is_centred else folded

    def backpropagate(self, gradients: mx.array, matrix: mx.array) -> mx.array:
        """Gradients at the norm's input, one for each head (rows, heads, positions, d_model), float32.

        Args:
            gradients: at the outputs of a matrix behind the norm (rows, positions, heads, d_head).
            matrix: (heads, d_head, d_model).
        """
        folded = self.fold(matrix)
        scaled = (gradients.astype(mx.float32) * self.inverse[..., None]).swapaxes(1, 2)
        along = folded @ self.normed.swapaxes(1, 2)[:, None]  # (rows, heads, d_head, positions)
        share = (scaled * along.swapaxes(2, 3)).mean(axis=-1, keepdims=True) * (folded.shape[1] / folded.shape[2])
        return scaled @ folded - share * self.normed[:, None]
