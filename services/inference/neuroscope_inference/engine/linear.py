"""The matrix and the bias of a linear layer, an embedding or experts: stored, quantised, or with an adapter."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

from neuroscope.v1 import weights_pb2 as pb

_QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)


def matrix_of(module: nn.Module) -> mx.array:
    """What a layer multiplies its input with (outputs, inputs): output = input @ matrix.T + bias. Lazy.

    Of an embedding (vocabulary, d_model), of experts (experts, outputs, inputs). An adapter is added to what it adapts.
    """
    inner = _fused(module)
    if not isinstance(inner, _QUANTIZED):
        return inner.weight
    scale = inner.get("global_scale")
    if scale is None or scale.ndim == 0:
        return _dequantised(inner, inner.weight, inner.scales, inner.get("biases"), scale)
    return mx.stack(
        [_dequantised(inner, inner.weight[i], inner.scales[i], None, scale[i]) for i in range(scale.shape[0])]
    )


def bias_of(module: nn.Module) -> mx.array | None:
    """What a layer adds (outputs,), of experts (experts, outputs); None: nothing."""
    inner: Any = module
    while isinstance(inner.get("linear"), nn.Module):  # an adapter leaves it to what it adapts
        inner = inner["linear"]
    return inner.get("bias")


def source_of(module: nn.Module) -> pb.WeightSource.ValueType:
    """Where the numbers of `matrix_of` are from."""
    if "lora_a" in module:
        return pb.WEIGHT_SOURCE_ADAPTED
    return pb.WEIGHT_SOURCE_DEQUANTIZED if isinstance(module, _QUANTIZED) else pb.WEIGHT_SOURCE_STORED


def _fused(module: nn.Module) -> Any:
    inner: Any = module
    return inner.fuse(dequantize=True) if "lora_a" in module else inner


def _dequantised(
    inner: Any, weight: mx.array, scales: mx.array, biases: mx.array | None, global_scale: mx.array | None
) -> mx.array:
    return mx.dequantize(
        weight,
        scales,
        biases,
        group_size=inner.group_size,
        bits=inner.bits,
        mode=inner.mode,
        global_scale=global_scale,
    )
