"""Gradients taken back through a norm, many at a time."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def pulled_through(norm: nn.Module, stream: mx.array, gradients: mx.array) -> mx.array:
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
