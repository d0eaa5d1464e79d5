"""The matrices of each head, out of projections that hold those of all heads, or queries, keys and values at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.layout import Block
from neuroscope_inference.engine.linear import bias_of, matrix_of
from neuroscope_inference.engine.qkv_layout import QkvLayout

PARTS = ("queries", "keys", "values")


class MatricesUnavailableError(Exception):
    """The layer's projections are of no kind that is known; the reason."""


@dataclass(frozen=True, slots=True)
class HeadProjection:
    """What makes the queries, keys or values of all heads.

    Matrices are made where they are used: those of a quantised model are larger than the model.

    Args:
        module: the projection.
        columns: the heads, and how they are ordered where the projection is of all three.
        part: 0 queries, 1 keys, 2 values.
        is_fused: whether the projection is of all three.
    """

    module: nn.Module
    columns: QkvLayout
    part: int
    is_fused: bool

    def matrix(self) -> mx.array:
        """(heads, d_head, d_model), lazy; what does not divide among heads stays as it is."""
        return self._by_head(matrix_of(self.module))

    def bias(self) -> mx.array | None:
        """(heads, d_head), lazy; None: there is none."""
        bias = bias_of(self.module)
        return None if bias is None else self._by_head(bias[:, None])[..., 0]

    def _by_head(self, rows: mx.array) -> mx.array:
        if self.is_fused:
            return self.columns.rows(rows, self.part)
        heads = self.columns.kv_heads if self.part else self.columns.heads
        return rows.reshape(heads, -1, rows.shape[-1]) if rows.shape[0] % heads == 0 else rows


def projections_of(block: Block, columns: QkvLayout, layer: int) -> Sequence[HeadProjection]:
    """Those of queries, keys and values.

    Raises:
        MatricesUnavailableError: the layer has no projections of known names, or they have other columns.
    """
    apart = (block.query_projection, block.key_projection, block.value_projection)
    found = [module for module in apart if module is not None]
    if len(found) == len(apart):
        return [HeadProjection(module, columns, part, is_fused=False) for part, module in enumerate(found)]
    fused = block.fused_projection
    if fused is None:
        raise MatricesUnavailableError(f"layer {layer} has no projections of queries, keys and values that are known")
    if not columns.fits(matrix_of(fused).T[None]):
        raise MatricesUnavailableError(
            f"the projection of layer {layer} has other columns than its heads' queries, keys and values"
        )
    return [HeadProjection(fused, columns, part, is_fused=True) for part in range(len(PARTS))]


def output_matrix(block: Block, heads: int) -> mx.array:
    """What each head's output is multiplied with (heads, d_head, d_model), lazy.

    Raises:
        MatricesUnavailableError: the layer has no output projection that is known.
    """
    if block.output_projection is None:
        raise MatricesUnavailableError("no output projection that is known")
    matrix = matrix_of(block.output_projection)
    return matrix.T.reshape(heads, -1, matrix.shape[0])
