"""The matrix of a linear layer, whatever holds it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def matrix_of(module: nn.Module, width: int) -> mx.array:
    """What a layer multiplies its input with (outputs, width): output = input @ matrix.T + bias.

    Args:
        module: a linear layer, quantised or adapted or neither.
        width: of its input.
    """
    inner: Any = module
    if isinstance(module, nn.Linear) and "lora_a" not in module:
        return inner.weight
    if isinstance(module, nn.QuantizedLinear):
        return mx.dequantize(
            inner.weight,
            inner.scales,
            inner.get("biases"),
            group_size=inner.group_size,
            bits=inner.bits,
            mode=inner.mode,
        )
    unit = mx.concatenate([mx.zeros((1, width)), mx.eye(width)])[None]
    rows: mx.array = inner(unit)[0]
    return (rows[1:] - rows[:1]).T
