"""Attention that a model computes itself, without mlx-lm's shared function: its own arithmetic, with points in between.

gemma2 caps its scores, which the shared function cannot. While a hook plan is there its attention runs as written here:
operation by operation what mlx-lm's module does, so logits stay bit for bit what they were. The self-test holds it to
that on every load.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma2

from neuroscope_inference.engine.attention import ManualAttentionPoints, manual_attention_points
from neuroscope_inference.engine.module_hooks import Call, intercept


def install(attention: nn.Module | None) -> None:
    """Lets the attention of a model that computes it itself be read; any other is left alone."""
    if isinstance(attention, gemma2.Attention):
        intercept(attention, _dispatch)


def _dispatch(module: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seen = manual_attention_points()
    return call(module, *args, **kwargs) if seen is None else _attend_with_softcap(seen, module, *args, **kwargs)


def _attend_with_softcap(
    seen: ManualAttentionPoints, module: Any, x: mx.array, mask: mx.array | None = None, cache: Any = None
) -> mx.array:
    """mlx_lm.models.gemma2.Attention.__call__; the order of operations is its order."""
    batch, length, _ = x.shape
    queries, keys, values = module.q_proj(x), module.k_proj(x), module.v_proj(x)
    queries = queries.reshape(batch, length, module.n_heads, -1).transpose(0, 2, 1, 3)  # (B, H, L, D)
    keys = keys.reshape(batch, length, module.n_kv_heads, -1).transpose(0, 2, 1, 3)
    values = values.reshape(batch, length, module.n_kv_heads, -1).transpose(0, 2, 1, 3)
    if cache is None:
        queries, keys = module.rope(queries), module.rope(keys)
    else:
        queries, keys = module.rope(queries, offset=cache.offset), module.rope(keys, offset=cache.offset)
        keys, values = cache.update_and_fetch(keys, values)  # (B, H_kv, S, D)
    queries, keys, values = seen.hook_qkv(queries, keys, values, cache)

    queries = queries * module.scale
    if module.repeats > 1:
        queries = queries.reshape(batch, module.n_kv_heads, module.repeats, length, module.head_dim)
        keys, values = mx.expand_dims(keys, 2), mx.expand_dims(values, 2)
    scores = queries @ keys.swapaxes(-1, -2)  # (B, H_kv, repeats, L, S) or (B, H, L, S)
    scores = mx.tanh(scores / module.attn_logit_softcapping)
    scores *= module.attn_logit_softcapping
    if mask is not None:
        if mask.dtype == mx.bool_:
            scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
        else:
            scores = scores + mask
    grouped, by_head = scores.shape, (batch, module.n_heads, length, scores.shape[-1])
    scores = seen.hook_scores(scores.reshape(by_head), mask).reshape(grouped)
    pattern = mx.softmax(scores, precise=True, axis=-1)
    pattern = seen.hook_pattern(pattern.reshape(by_head)).reshape(grouped)
    output = pattern @ values
    if module.repeats > 1:
        output = output.reshape(batch, module.n_heads, length, module.head_dim)
    output = seen.hook_output(output)
    return module.o_proj(output.transpose(0, 2, 1, 3).reshape(batch, length, -1))
