"""What senders write into the residual stream, and how it goes on through MLPs, by the model's own modules."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.layout import Block, Layout


def residual_contribution(layout: Layout, point: Point, value: mx.array) -> mx.array:
    """What the stream gets of an activation of a sender (1, positions, d_model).

    Args:
        layout: of the model.
        point: one of `nodes.SENDERS`.
        value: all of it: of heads (1, positions, heads, d_head).
    """
    if point.layer is None or point.component in ("attn_contrib", "mlp_contrib", "resid_pre"):
        return value
    block = layout.blocks[point.layer]
    if point.component == "mlp_out":
        return _normed_and_scaled(block, block.mlp_output_norm, value)
    if point.component == "head_output":
        assert block.output_projection is not None
        value = call_module(block.output_projection, value.reshape(*value.shape[:2], -1))
    return _normed_and_scaled(block, block.attention_output_norm, value)


def mlp_contribution(layout: Layout, layer: int, stream: mx.array) -> mx.array:
    """What an MLP writes that reads a stream (1, positions, d_model)."""
    block = layout.blocks[layer]
    assert block.mlp is not None
    is_parallel = mlp_input_stream(layout, layer).component == "resid_pre"
    norm = block.norm2 or (block.norm1 if is_parallel else None)
    read = stream if norm is None else call_module(norm, stream)
    return _normed_and_scaled(block, block.mlp_output_norm, call_module(block.mlp, read))


def mlp_input_stream(layout: Layout, layer: int) -> Point:
    """Where the MLP of a layer reads: before the block where it stands beside attention, otherwise behind attention."""
    is_parallel = bool(layout.state(Point("resid_mid", layer)).reason)
    return Point("resid_pre" if is_parallel else "resid_mid", layer)


def call_module(module: nn.Module, x: mx.array) -> mx.array:
    """What a module makes of its input alone."""
    call: Any = module
    result = call(x)
    return result[0] if isinstance(result, tuple) else result


def _normed_and_scaled(block: Block, norm: nn.Module | None, value: mx.array) -> mx.array:
    value = value if norm is None else call_module(norm, value)
    return value if block.contribution_scale == 1 else value * block.contribution_scale
