"""Queries, keys and values out of the projections of attention, of one matrix for each or of one for all.

Fused projections order their columns in one of three ways; which one a model has, the self-test finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from neuroscope_inference.engine.arrays import new_handle
from neuroscope_inference.engine.hook_plan import PointView


@dataclass(slots=True)
class QkvLayout:
    """How the columns of a fused projection are ordered."""

    heads: int
    kv_heads: int
    width: int
    order: str = "side by side"

    @property
    def queries(self) -> PointView:
        """(B, L, all) as (B, L, heads, d_head); what has other columns stays, for the self-test to refuse."""
        return self._view(0)

    @property
    def keys(self) -> PointView:
        """(B, L, all) as (B, L, kv_heads, d_head)."""
        return self._view(1)

    def rows(self, matrix: mx.array, part: int) -> mx.array:
        """Rows of the projection's matrix (all, d_model) that make a part, by head: (heads, d_head, d_model).

        Args:
            matrix: of the projection.
            part: 0 queries, 1 keys, 2 values.
        """
        groups, where = ORDERS[self.order](self, part)
        return matrix.reshape(*groups, self.width, -1)[..., where, :, :].reshape(-1, self.width, matrix.shape[-1])

    def fits(self, x: mx.array) -> bool:
        """Whether x has the columns of every query, key and value, and no other."""
        return x.ndim == 3 and x.shape[-1] == (self.heads + 2 * self.kv_heads) * self.width

    def _view(self, part: int) -> PointView:
        def read(x: mx.array) -> mx.array:
            return _part(self, x, part) if self.fits(x) else x

        def write(x: mx.array, edited: mx.array) -> mx.array:
            groups, where = _grouped(self, x, part)
            written = new_handle(groups)
            written[..., where, :] = edited.reshape(*groups[..., where, :].shape)
            return written.reshape(x.shape)

        return PointView(read, write)


SlicePart = Callable[[QkvLayout, int], tuple[tuple[int, ...], slice]]
"""(columns, part: 0 queries, 1 keys, 2 values) -> how heads are grouped, and where in a group the part is."""


def _concatenated(columns: QkvLayout, part: int) -> tuple[tuple[int, ...], slice]:
    """All queries, all keys, all values: gpt2, phi3, and most."""
    heads, kv_heads = columns.heads, columns.kv_heads
    first = heads + (part - 1) * kv_heads
    return (heads + 2 * kv_heads,), slice(0, heads) if part == 0 else slice(first, first + kv_heads)


def _interleaved(columns: QkvLayout, part: int) -> tuple[tuple[int, ...], slice]:
    """Group by group the queries that share a key, the key, the value: gpt_neox (groups of one head), internlm2."""
    repeats = columns.heads // columns.kv_heads
    first = repeats + part - 1
    return (columns.kv_heads, repeats + 2), slice(0, repeats) if part == 0 else slice(first, first + 1)


ORDERS: dict[str, SlicePart] = {"side by side": _concatenated, "by group": _interleaved}


def _part(columns: QkvLayout, x: mx.array, part: int) -> mx.array:
    groups, where = _grouped(columns, x, part)
    return groups[..., where, :].reshape(*x.shape[:2], -1, columns.width)


def _grouped(columns: QkvLayout, x: mx.array, part: int) -> tuple[mx.array, slice]:
    groups, where = ORDERS[columns.order](columns, part)
    return x.reshape(*x.shape[:2], *groups, columns.width), where
