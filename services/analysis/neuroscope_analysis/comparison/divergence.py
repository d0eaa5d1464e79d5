"""Divergences between the attention patterns of a head on two prompts.

    jensen_shannon     mean Jensen-Shannon divergence over aligned queries, in nats: 0 to ln 2 (Lin 1991)
    total_variation    mean total variation distance over aligned queries: 0 to 1

A row is a distribution over the aligned keys and one more entry for all other weight, including an attention sink.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroscope_analysis.attention.patterns import NO_KEY, Floats, PatternChunk, Positions

DIVERGENCES = ("jensen_shannon", "total_variation")
_TINY = np.float32(1e-30)


class AlignedRows:
    """Attention rows of some queries and layers, over the aligned keys and the rest.

    Args:
        queries: positions of the queries, increasing.
        keys: positions of the aligned keys, increasing.
        layers: number of layers.
        heads: maximum number of heads of a layer.
    """

    def __init__(self, queries: Positions, keys: Positions, layers: int, heads: int) -> None:
        self._queries = queries
        self._keys = keys
        self._rows = np.zeros((layers, heads, len(queries), len(keys) + 1), np.float32)
        self._heads = [0] * layers

    def add(self, layer: int, chunk: PatternChunk) -> None:
        """Adds the queries of a chunk; `layer` is an index into the layers."""
        wanted = np.isin(chunk.queries, self._queries)
        into = np.searchsorted(self._queries, chunk.queries[wanted])
        columns = np.full(max(int(chunk.keys.max()), int(self._keys.max())) + 1, NO_KEY, np.int64)
        held = chunk.keys >= 0
        columns[chunk.keys[held]] = np.flatnonzero(held)
        column = columns[self._keys]
        there = np.flatnonzero(column >= 0)
        weights = chunk.weights[:, wanted]
        self._heads[layer] = heads = len(weights)
        rows = np.zeros((heads, len(into), self._rows.shape[3]), np.float32)
        rows[:, :, there] = weights[:, :, column[there]]
        rows[:, :, -1] = np.maximum(1 - rows.sum(axis=2), 0)
        self._rows[layer, :heads, into] = rows.swapaxes(0, 1)

    def layer_rows(self, layer: int) -> Floats:
        """The rows of a layer (head, query, key)."""
        return self._rows[layer, : self._heads[layer]]


class Divergences:
    """Sums of divergences over queries.

    Args:
        layers: number of layers.
        heads: maximum number of heads of a layer.
        queries: number of aligned queries.
    """

    def __init__(self, layers: int, heads: int, queries: int) -> None:
        self._queries = queries
        self._sums = {name: np.zeros((layers, heads)) for name in DIVERGENCES}
        self._counts = np.zeros((layers, heads))

    def add(self, layer: int, first: Floats, second: Floats) -> None:
        """Adds aligned rows.

        Args:
            layer: an index into the layers.
            first: rows of the first prompt (head, query, key).
            second: rows of the second prompt (head, query, key).
        """
        heads = len(first)
        middle = ((first + second) / 2).astype(np.float32)
        self._sums["jensen_shannon"][layer, :heads] += ((_kl(first, middle) + _kl(second, middle)) / 2).sum(axis=1)
        self._sums["total_variation"][layer, :heads] += (np.abs(first - second).sum(axis=2) / 2).sum(axis=1)
        self._counts[layer, :heads] += first.shape[1]

    def arrays(self) -> dict[str, Floats]:
        """The divergences by name (layer, head); NaN for missing heads and incomplete rows."""
        is_whole = self._counts == self._queries
        return {
            name: np.where(is_whole, sums / self._queries, np.nan).astype(np.float32)
            for name, sums in self._sums.items()
        }


def _kl(p: Floats, q: Floats) -> NDArray[np.float64]:
    """KL(p || q) of each row (head, query)."""
    ratio = np.log(np.maximum(p, _TINY).astype(np.float64)) - np.log(np.maximum(q, _TINY).astype(np.float64))
    return np.maximum((p * ratio).sum(axis=2), 0)
