"""Statistics of the attention heads of one prompt, summed up chunk by chunk.

    entropy             mean over queries of -sum p ln p, in nats
    normalised_entropy  the same over ln(keys that the query can see); queries that see one key are left out
    distance            mean over queries of sum p (query - key), in tokens (Vig & Belinkov 2019, arXiv:1906.04284)
    first_token         mean weight on the first token, its own query left out (Xiao et al. 2023, arXiv:2309.17453)
    focus               mean over queries of the largest weight (Voita et al. 2019, arXiv:1905.09418: confidence)
    previous_token_detector, duplicate_token_detector, induction_detector
                        the share of all weight at the keys of TransformerLens' head_detector (error_measure "mul")
    previous_token_detector_abs, ...
                        1 - mean over queries of sum |p - pattern|, the pattern 1 at these keys ("abs")

Where a learnt sink takes a part of a query's weight, entropy and distance are those of the rest, scaled to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope_analysis.attention.patterns import DETECTORS, Floats, PatternChunk, Positions

PATTERN_STATISTICS = ("entropy", "normalised_entropy", "distance", "first_token", "focus")
_ABS_DETECTORS = {f"{name}_detector_abs": name for name in DETECTORS}
STATISTICS = (*PATTERN_STATISTICS, *(f"{name}_detector" for name in DETECTORS), *_ABS_DETECTORS)
_TINY = np.float32(1e-30)


class PromptStatistics:
    """Statistics of one prompt.

    Args:
        ids: its tokens.
        layers: number of layers.
        heads: maximum number of heads of a layer.
    """

    def __init__(self, ids: Sequence[int], layers: int, heads: int) -> None:
        self._tokens = np.asarray(ids, np.int64)
        self._sums = {name: np.zeros((layers, heads)) for name in STATISTICS}
        self._counts = {name: np.zeros(layers) for name in (*PATTERN_STATISTICS, *_ABS_DETECTORS)}
        self._weight = np.zeros((layers, heads))
        self._seen = np.zeros((layers, heads), np.bool_)

    def add(self, layer: int, chunk: PatternChunk) -> None:
        """Adds a chunk.

        Args:
            layer: an index into the layers.
            chunk: the weights.
        """
        weights, queries = chunk.weights, chunk.queries
        heads = len(weights)
        self._seen[layer, :heads] = True
        totals = np.maximum(weights.sum(axis=2), _TINY)  # (head, query)
        logs = np.log(np.maximum(weights, _TINY))
        entropy = np.log(totals) - np.einsum("hqk,hqk->hq", weights, logs) / totals
        seen = np.log(np.maximum(queries + 1, 2).astype(np.float32))
        held = chunk.keys >= 0
        distance = queries - (weights[:, :, held] @ chunk.keys[held].astype(np.float32)) / totals
        later = queries > 0
        self._count("entropy", layer, entropy)
        self._count("normalised_entropy", layer, (entropy / seen)[:, later])
        self._count("distance", layer, distance)
        self._count("first_token", layer, chunk.at(np.zeros_like(queries))[:, later])
        self._count("focus", layer, weights.max(axis=2))
        self._weight[layer, :heads] += totals.sum(axis=1)
        for name, pattern in DETECTORS.items():
            wanted = pattern(self._tokens, queries, np.maximum(chunk.keys, 0)) & held
            self._sums[f"{name}_detector"][layer, :heads] += np.einsum("hqk,qk->h", weights, wanted.astype(np.float32))
            unseen = self._expected_keys(name, queries) - wanted.sum(axis=1)  # keys outside a sliding window
            missed = np.abs(weights - wanted).sum(axis=2) + unseen
            self._count(f"{name}_detector_abs", layer, missed)

    def merge(self, other: PromptStatistics) -> None:
        """Adds the sums of another prompt."""
        for name in self._sums:
            self._sums[name] += other._sums[name]
        for name in self._counts:
            self._counts[name] += other._counts[name]
        self._weight += other._weight
        self._seen |= other._seen

    def array(self, name: str) -> Floats:
        """A statistic (layer, head); NaN for missing heads, and without a suitable query."""
        divisor = self._counts[name][:, None] if name in self._counts else self._weight
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(self._seen & (divisor > 0), self._sums[name] / divisor, np.nan)
        return (1 - values if name in _ABS_DETECTORS else values).astype(np.float32)

    def _expected_keys(self, name: str, queries: Positions) -> NDArray[np.int64]:
        """Number of keys in a query's detection pattern (query,)."""
        return DETECTORS[name](self._tokens, queries, np.arange(int(queries.max()) + 1)).sum(axis=1)

    def _count(self, name: str, layer: int, values: NDArray[np.floating]) -> None:
        heads, queries = values.shape
        self._sums[name][layer, :heads] += values.sum(axis=1, dtype=np.float64)
        self._counts[name][layer] += queries
