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

from neuroscope_inference.engine.tap import PointIndex, Tap

_original = base.scaled_dot_product_attention
_running = threading.local()


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
    def reading(self, tap: Tap) -> Generator[None, None, None]:
        """Within the block, attention that runs on this thread is this layer's."""
        outer = getattr(_running, "attention", None)
        _running.attention = (tap, self)
        try:
            yield
        finally:
            _running.attention = outer


def dispatch_everywhere() -> None:
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
    running: tuple[Tap, AttentionPoints] | None = getattr(_running, "attention", None)
    if running is None:
        return _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
    tap, points = running
    tap.see(points.query, queries, _heads_inside)
    wants_scores = tap.wanted[points.scores] or tap.wanted[points.pattern]
    if hasattr(cache, "bits"):
        queries = mx.array(queries)  # the quantised kernel scales its queries in place
        plain_keys: mx.array = (
            mx.dequantize(*keys, group_size=cache.group_size, bits=cache.bits) if wants_scores else keys[0]
        )
    else:
        length, columns = queries.shape[2], keys.shape[2]
        newest = _newest(cache, length, columns)
        tap.see(points.key, keys[:, :, newest], _heads_inside)
        tap.see(points.value, values[:, :, newest], _heads_inside)
        plain_keys = keys
    if wants_scores:
        tap.key_columns[points.layer] = _columns(cache, plain_keys.shape[2])
        scores = _scores(queries, plain_keys, scale, mask)
        tap.see(points.scores, scores)
        if tap.wanted[points.pattern]:
            tap.see(points.pattern, _probabilities(scores, sinks))
    output = _original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
    tap.see(points.head_output, output, _heads_inside)
    return output


@dataclass(frozen=True, slots=True)
class SeenManually:
    """What attention outside the dispatcher shows of itself, at the points of its layer."""

    tap: Tap
    points: AttentionPoints

    def projected(self, queries: mx.array, keys: mx.array, values: mx.array, cache: Any) -> None:
        """Queries (B, H, L, D), keys and values (B, H_kv, S, D) as attended with, before any scale."""
        newest = _newest(cache, queries.shape[2], keys.shape[2])
        self.tap.see(self.points.query, queries, _heads_inside)
        self.tap.see(self.points.key, keys[:, :, newest], _heads_inside)
        self.tap.see(self.points.value, values[:, :, newest], _heads_inside)
        if self.tap.wanted[self.points.scores] or self.tap.wanted[self.points.pattern]:
            self.tap.key_columns[self.points.layer] = _columns(cache, keys.shape[2])

    def scored(self, scores: mx.array) -> None:
        """Scores (B, H, L, S), masked."""
        self.tap.see(self.points.scores, scores)

    def weighted(self, pattern: mx.array) -> None:
        """Probabilities (B, H, L, S)."""
        self.tap.see(self.points.pattern, pattern)

    def mixed(self, output: mx.array) -> None:
        """Outputs of the heads (B, H, L, D)."""
        self.tap.see(self.points.head_output, output, _heads_inside)


def seen_manually() -> SeenManually | None:
    """For attention that does not pass through the dispatcher: where to show it; None while nobody reads."""
    running: tuple[Tap, AttentionPoints] | None = getattr(_running, "attention", None)
    return None if running is None else SeenManually(*running)


def _heads_inside(x: mx.array) -> mx.array:
    return x.swapaxes(1, 2)  # (B, H, L, D) -> (B, L, H, D)


def _newest(cache: Any, length: int, columns: int) -> slice:
    """Columns that this step wrote. A rotating cache that is full writes single positions inside its ring."""
    end = getattr(cache, "_idx", columns) if length == 1 else columns
    return slice(end - length, end)


def _columns(cache: Any, columns: int) -> tuple[int, int, int]:
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


def _scores(queries: mx.array, keys: mx.array, scale: float, mask: Any) -> mx.array:
    """Scaled, masked scores (B, H, L, S); masked entries hold the dtype's lowest finite number."""
    batch, heads, length, width = queries.shape
    kv_heads, columns = keys.shape[1], keys.shape[2]
    grouped = (queries * scale).reshape(batch, kv_heads, heads // kv_heads, length, width)
    scores = (grouped @ keys[:, :, None].swapaxes(-1, -2)).reshape(batch, heads, length, columns)
    if mask is None:
        return scores
    if isinstance(mask, str):  # "causal"
        mask = mx.arange(columns - length, columns)[:, None] >= mx.arange(columns)[None]
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, mx.finfo(scores.dtype).min)
    return scores + mask


def _probabilities(scores: mx.array, sinks: mx.array | None) -> mx.array:
    """Softmax over the keys. With sinks (gpt-oss) rows sum to one minus the share of the sink."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    sink = mx.broadcast_to(sinks.astype(scores.dtype).reshape(1, -1, 1, 1), (*scores.shape[:3], 1))
    return mx.softmax(mx.concatenate([scores, sink], axis=-1), axis=-1, precise=True)[..., :-1]
