"""Routing between tokens by the norm of what attention moves, not by its weight alone.

Kobayashi et al. 2020, "Attention is Not Only a Weight" (arXiv:2004.10102): |sum over heads of alpha f(x)|, where f(x)
is the value of a token multiplied by the head's output matrix. A norm after attention is frozen at its divisor at the
query.

The norm of the sum is computed without a vector for each pair of tokens: with the Gram matrix of one key,
G[h, k] = f_h . f_k, it is sqrt(alpha^T G alpha).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from neuroscope.vocabulary.hooks import Hook
from neuroscope_analysis.residual.activation_chunks import UNREDUCED, ActivationChunk, Floats
from neuroscope_analysis.residual.head_weights import HeadWeights, max_head_count

VALUE, PATTERN = "value", "attention_pattern"
ROUTING, ROUTING_BY_HEAD = "routing", "routing_head"
_KEY_BATCH = 64


def hooks(layers: Sequence[int], queries: Sequence[int], heads: Mapping[int, HeadWeights]) -> list[Hook]:
    """The hooks of routing in some layers."""
    found: list[Hook] = []
    for layer in layers:
        found += [
            Hook(VALUE, layer, dtype="float32"),
            Hook(PATTERN, layer, positions=list(queries), dtype="float32"),
        ]
        if heads[layer].post_norm.norm is not None:
            found.append(Hook("attn_out", layer, positions=list(queries), dtype="float32"))
    return found


class RouteNorms:
    """Routing of one prompt.

    Args:
        heads: heads by layer.
        layer_count: number of layers of the model.
        queries: query positions.
        length: number of tokens.
        by_head: also by head.
    """

    def __init__(
        self, heads: Mapping[int, HeadWeights], layer_count: int, queries: Sequence[int], length: int, *, by_head: bool
    ) -> None:
        self._heads = heads
        self._length = length
        self._places = {query: index for index, query in enumerate(queries)}
        self.arrays: dict[str, Floats] = {ROUTING: np.full((layer_count, len(queries), length), np.nan, np.float32)}
        if by_head:
            shape = (layer_count, max_head_count(heads), len(queries), length)
            self.arrays[ROUTING_BY_HEAD] = np.full(shape, np.nan, np.float32)
        self._grams: dict[int, Floats] = {}

    def add(self, chunk: ActivationChunk) -> None:
        """Adds a chunk: its values, then its patterns."""
        for component, layer, _ in chunk.pieces:
            if component == VALUE:
                self._add_values(chunk, layer)
        for component, layer, _ in chunk.pieces:
            if component == PATTERN:
                self._add_patterns(chunk, layer)

    def clear(self) -> None:
        """Frees the Gram matrices, after a capture."""
        self._grams.clear()

    def _add_values(self, chunk: ActivationChunk, layer: int) -> None:
        output = self._heads[layer].output
        count = len(output)
        values = chunk.array(VALUE, layer)  # (P, key/value head, d_head)
        shared = np.repeat(values, count // values.shape[1], axis=1)
        if layer not in self._grams:
            self._grams[layer] = np.zeros((self._length, count, count), np.float32)
        at = chunk.positions(VALUE, layer)
        for first in range(0, len(at), _KEY_BATCH):
            some = slice(first, first + _KEY_BATCH)
            moved = np.matmul(shared[some].swapaxes(0, 1), output)  # (head, P, d_model)
            self._grams[layer][at[some]] = np.einsum("hpd,kpd->phk", moved, moved, optimize=True)

    def _add_patterns(self, chunk: ActivationChunk, layer: int) -> None:
        heads, piece = self._heads[layer], chunk.pieces[PATTERN, layer, UNREDUCED]
        weights = chunk.array(PATTERN, layer)  # (head, query, key)
        columns = np.asarray(piece.key_positions or range(weights.shape[2]), np.int64)
        held = columns >= 0
        keys, weights = columns[held], weights[:, :, held]
        places = [self._places[int(query)] for query in chunk.positions(PATTERN, layer)]
        gram = self._grams[layer][keys]  # (key, head, head)
        squares = np.einsum("hqk,khj,jqk->qk", weights, gram, weights, optimize=True)
        divisor = np.ones(len(places))
        if heads.post_norm.norm is not None:
            divisor = heads.post_norm.divisor(chunk.array("attn_out", layer))
        moved = np.zeros((len(places), self._length))
        moved[:, keys] = np.sqrt(np.maximum(squares, 0)) / divisor[:, None]
        self.arrays[ROUTING][layer, places] = moved
        if ROUTING_BY_HEAD in self.arrays:
            norms = np.sqrt(np.maximum(np.einsum("khh->hk", gram), 0))
            by_head = np.zeros((len(weights), len(places), self._length))
            by_head[:, :, keys] = weights * norms[:, None, :] / divisor[None, :, None]
            self.arrays[ROUTING_BY_HEAD][layer, : len(weights), places] = by_head.swapaxes(0, 1)
