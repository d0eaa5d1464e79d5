"""Queries, keys, values, scores and patterns: a dispatcher in front of mlx-lm's `scaled_dot_product_attention`.

Models import that function into their own module by name, so each of those names is pointed at the dispatcher once.
Outside a hooked attention module it calls the original. Reads never change what is computed: scores and patterns come
from a branch beside the fused kernel, which shares its inputs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models import base

from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, PointView

_original = base.scaled_dot_product_attention
_thread = threading.local()


@dataclass(frozen=True, slots=True)
class AttentionPoints:
    """Point indices of one layer's attention."""

    layer: int
    query: PointIndex
    key: PointIndex
    value: PointIndex
    scores: PointIndex
    pattern: PointIndex
    head_output: PointIndex

    @contextmanager
    def activate(self, hook_plan: HookPlan) -> Generator[None, None, None]:
        """Within the block, attention that runs on this thread is this layer's."""
        outer = getattr(_thread, "attention", None)
        _thread.attention = (hook_plan, self)
        try:
            yield
        finally:
            _thread.attention = outer


def patch_attention_functions() -> None:
    """Points every mlx-lm model module that uses the original function at the dispatcher."""
    for name, module in list(sys.modules.items()):
        is_model = name.startswith("mlx_lm.models.") and module is not base
        if is_model and getattr(module, "scaled_dot_product_attention", None) is _original:
            setattr(module, "scaled_dot_product_attention", _dispatch)  # noqa: B010 - modules declare no attributes


def _dispatch(
    queries: mx.array,  # (B, H, L, D)
    keys: Any,  # (B, H_kv, S, D), or its quantised triple
    values: Any,
    cache: Any,
    scale: float,
    mask: Any = None,
    sinks: mx.array | None = None,
) -> mx.array:
    running: tuple[HookPlan, AttentionPoints] | None = getattr(_thread, "attention", None)
    if running is None:
        return _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
    hook_plan, points = running
    queries = hook_plan.apply(points.query, queries, _HEADS_FIRST)
    explicit = points.scores in hook_plan.edits or points.pattern in hook_plan.edits
    wants_scores = explicit or hook_plan.capture_mask[points.scores] or hook_plan.capture_mask[points.pattern]
    if hasattr(cache, "bits"):
        queries = mx.array(queries)  # the quantised kernel scales its queries in place
        keys = _hook_quantised(hook_plan, points.key, keys, queries.shape[2], cache, "keys")
        values = _hook_quantised(hook_plan, points.value, values, queries.shape[2], cache, "values")
        dequantised = _dequantised(keys, cache) if wants_scores else keys[0]
    else:
        newest = _new_columns(cache, queries.shape[2], keys.shape[2])
        keys = _hook_new_columns(hook_plan, points.key, keys, newest, cache, "keys")
        values = _hook_new_columns(hook_plan, points.value, values, newest, cache, "values")
        dequantised = keys
    if not wants_scores:
        output = _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
        return hook_plan.apply(points.head_output, output, _HEADS_FIRST)
    hook_plan.key_columns[points.layer] = _column_state(cache, dequantised.shape[2])
    allowed = _unmasked(mask, queries.shape[2], dequantised.shape[2])
    scores = _scores(queries, dequantised, scale, mask, allowed)
    edited = _hook_scores(hook_plan, points.scores, scores, allowed)
    if explicit:
        pattern = hook_plan.apply(points.pattern, _probabilities(edited, sinks))
        output = _weight_values(pattern, _dequantised(values, cache) if hasattr(cache, "bits") else values)
        output = output.astype(queries.dtype)
    else:
        if hook_plan.capture_mask[points.pattern]:
            hook_plan.capture(points.pattern, _probabilities(scores, sinks))
        output = _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
    return hook_plan.apply(points.head_output, output, _HEADS_FIRST)


def _swap_heads(x: mx.array) -> mx.array:
    return x.swapaxes(1, 2)  # (B, H, L, D) and (B, L, H, D)


_HEADS_FIRST = PointView(_swap_heads, lambda _, edited: _swap_heads(edited))


def _hook_new_columns(
    hook_plan: HookPlan, point: PointIndex, whole: mx.array, newest: slice, cache: Any, name: str
) -> mx.array:
    """The keys or values of a layer, those of this step read and edited; an edit stays in the cache."""
    if not hook_plan.capture_mask[point] and point not in hook_plan.edits:
        return whole
    part = whole[:, :, newest]
    edited = hook_plan.apply(point, part, _HEADS_FIRST)
    if edited is part:
        return whole
    written = mx.array(whole)
    written[:, :, newest] = edited
    stored = getattr(cache, name, None)
    if stored is not None:
        stored[:, :, newest] = edited
    return written


def _hook_quantised(hook_plan: HookPlan, point: PointIndex, whole: Any, length: int, cache: Any, name: str) -> Any:
    """Like `_see_newest`, of a quantised cache: the numbers that its bits stand for, which an edit becomes as well."""
    if not hook_plan.capture_mask[point] and point not in hook_plan.edits:
        return whole
    end = cache.offset
    part = _dequantised([x[..., end - length : end, :] for x in whole], cache)
    edited = hook_plan.edit(point, part, _HEADS_FIRST)
    if edited is not part:
        quantised = mx.quantize(edited, group_size=cache.group_size, bits=cache.bits)
        whole = [mx.array(x) for x in whole]
        for written, stored, new in zip(whole, getattr(cache, name), quantised, strict=True):
            written[..., end - length : end, :] = new
            stored[..., end - length : end, :] = new
        part = _dequantised(quantised, cache)
    hook_plan.capture(point, part, _HEADS_FIRST)
    return whole


def _dequantised(quantised: Any, cache: Any) -> mx.array:
    return mx.dequantize(*quantised, group_size=cache.group_size, bits=cache.bits)


def _weight_values(pattern: mx.array, values: mx.array) -> mx.array:
    """(B, H, L, S) and (B, H_kv, S, D) to (B, H, L, D)."""
    batch, heads, length, columns = pattern.shape
    kv_heads = values.shape[1]
    grouped = pattern.reshape(batch, kv_heads, heads // kv_heads, length, columns) @ values[:, :, None]
    return grouped.reshape(batch, heads, length, -1)


@dataclass(frozen=True, slots=True)
class ManualAttentionPoints:
    """What attention outside the dispatcher shows of itself, at the points of its layer; what it gets back goes on."""

    hook_plan: HookPlan
    points: AttentionPoints

    def hook_qkv(
        self, queries: mx.array, keys: mx.array, values: mx.array, cache: Any
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (B, H, L, D), keys and values (B, H_kv, S, D) as attended with, before any scale."""
        newest = _new_columns(cache, queries.shape[2], keys.shape[2])
        if self.hook_plan.capture_mask[self.points.scores] or self.hook_plan.capture_mask[self.points.pattern]:
            self.hook_plan.key_columns[self.points.layer] = _column_state(cache, keys.shape[2])
        return (
            self.hook_plan.apply(self.points.query, queries, _HEADS_FIRST),
            _hook_new_columns(self.hook_plan, self.points.key, keys, newest, cache, "keys"),
            _hook_new_columns(self.hook_plan, self.points.value, values, newest, cache, "values"),
        )

    def hook_scores(self, scores: mx.array, mask: Any) -> mx.array:
        """Scores (B, H, L, S), masked."""
        return _hook_scores(self.hook_plan, self.points.scores, scores, _unmasked(mask, *scores.shape[2:]))

    def hook_pattern(self, pattern: mx.array) -> mx.array:
        """Probabilities (B, H, L, S)."""
        return self.hook_plan.apply(self.points.pattern, pattern)

    def hook_output(self, output: mx.array) -> mx.array:
        """Outputs of the heads (B, H, L, D)."""
        return self.hook_plan.apply(self.points.head_output, output, _HEADS_FIRST)


def manual_attention_points() -> ManualAttentionPoints | None:
    """For attention that does not pass through the dispatcher: where to show it; None while nobody reads."""
    running: tuple[HookPlan, AttentionPoints] | None = getattr(_thread, "attention", None)
    return None if running is None else ManualAttentionPoints(*running)


def _hook_scores(hook_plan: HookPlan, point: PointIndex, scores: mx.array, allowed: mx.array | None) -> mx.array:
    """Scores that are edited and read; what was masked stays so."""
    edited = hook_plan.edit(point, scores)
    if edited is not scores and allowed is not None:
        edited = mx.where(allowed, edited, mx.finfo(edited.dtype).min)
    hook_plan.capture(point, edited)
    return edited


def _new_columns(cache: Any, length: int, columns: int) -> slice:
    """Columns that this step wrote. A rotating cache that is full writes single positions inside its ring."""
    end = getattr(cache, "_idx", columns) if length == 1 else columns
    return slice(end - length, end)


def _column_state(cache: Any, columns: int) -> tuple[int, int, int]:
    if cache is None:
        return columns, columns, columns
    offset = getattr(cache, "offset", None)  # a list of caches has none
    return (int(offset) if isinstance(offset, int) else columns), getattr(cache, "_idx", columns), columns


def key_positions(columns: tuple[int, int, int]) -> tuple[int, ...]:
    """Absolute position of every column; empty where column j is position j.

    A rotating cache holds positions in ring order: the newest lies before the next slot, older ones further back.
    """
    offset, slot, count = columns
    if offset == count == slot:
        return ()
    return tuple(offset - 1 - (slot - 1 - column) % count for column in range(count))


def _unmasked(mask: Any, length: int, columns: int) -> mx.array | None:
    """Which scores are not masked, to broadcast to (B, H, L, S); None: all of them, or an additive mask."""
    if isinstance(mask, str):  # "causal"
        return mx.arange(columns - length, columns)[:, None] >= mx.arange(columns)[None]
    if mask is None:
        return None
    if mask.dtype == mx.bool_:
        return mask
    return mask > -1e4


def _scores(queries: mx.array, keys: mx.array, scale: float, mask: Any, allowed: mx.array | None) -> mx.array:
    """ScaledInput, masked scores (B, H, L, S); masked entries hold the dtype's lowest finite number."""
    batch, heads, length, width = queries.shape
    kv_heads, columns = keys.shape[1], keys.shape[2]
    grouped = (queries * scale).reshape(batch, kv_heads, heads // kv_heads, length, width)
    scores = (grouped @ keys[:, :, None].swapaxes(-1, -2)).reshape(batch, heads, length, columns)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        return scores + mask
    return scores if allowed is None else mx.where(allowed, scores, mx.finfo(scores.dtype).min)


def _probabilities(scores: mx.array, sinks: mx.array | None) -> mx.array:
    """Softmax over the keys. With sinks (gpt-oss) rows sum to one minus the share of the sink."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    sink = mx.broadcast_to(sinks.astype(scores.dtype).reshape(1, -1, 1, 1), (*scores.shape[:3], 1))
    return mx.softmax(mx.concatenate([scores, sink], axis=-1), axis=-1, precise=True)[..., :-1]
