"""Queries and keys out of the projections of attention, of one matrix for each or of one for all.

Fused projections order their columns in one of three ways; which one a model has, the self-test finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx


@dataclass(slots=True)
class HeadColumns:
    """How the columns of a fused projection are ordered."""

    heads: int
    kv_heads: int
    width: int
    order: str = "side by side"

    def query(self, x: mx.array) -> mx.array:
        """(B, L, all) -> (B, L, heads, d_head); what has other columns stays, for the self-test to refuse."""
        return ORDERS[self.order](self, x)[0] if self.fits(x) else x

    def key(self, x: mx.array) -> mx.array:
        """(B, L, all) -> (B, L, kv_heads, d_head)."""
        return ORDERS[self.order](self, x)[1] if self.fits(x) else x

    def fits(self, x: mx.array) -> bool:
        """Whether x has the columns of every query, key and value, and no other."""
        return x.ndim == 3 and x.shape[-1] == (self.heads + 2 * self.kv_heads) * self.width


def _side_by_side(columns: HeadColumns, x: mx.array) -> tuple[mx.array, mx.array]:
    """All queries, all keys, all values: gpt2, phi3, and most."""
    queries = columns.heads * columns.width
    keys = columns.kv_heads * columns.width
    return (
        x[..., :queries].reshape(*x.shape[:2], columns.heads, columns.width),
        x[..., queries : queries + keys].reshape(*x.shape[:2], columns.kv_heads, columns.width),
    )


def _by_group(columns: HeadColumns, x: mx.array) -> tuple[mx.array, mx.array]:
    """Group by group the queries that share a key, the key, the value: gpt_neox (groups of one head), internlm2."""
    repeats = columns.heads // columns.kv_heads
    groups = x.reshape(*x.shape[:2], columns.kv_heads, repeats + 2, columns.width)
    return groups[..., :repeats, :].reshape(*x.shape[:2], columns.heads, columns.width), groups[..., repeats, :]


ORDERS: dict[str, Callable[[HeadColumns, mx.array], tuple[mx.array, mx.array]]] = {
    "side by side": _side_by_side,
    "by group": _by_group,
}
