"""Scores of roles on random sequences, accumulated chunk by chunk; `roles` has the definitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.attention.patterns import Floats, PatternChunk
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.statistics import PromptStatistics

_MAX_OFFSET = 16
_MEAN_WEIGHTS = {
    pb.HEAD_ROLE_PREVIOUS_TOKEN: "previous",
    pb.HEAD_ROLE_DUPLICATE_TOKEN: "duplicate",
    pb.HEAD_ROLE_INDUCTION: "induction",
}


class SequenceScores:
    """Sums over one random sequence, or over several after `merge`.

    Args:
        sequences: all sequences.
        index: index of this sequence.
        layers: number of layers.
        heads: maximum number of heads of a layer.
    """

    def __init__(self, sequences: RepeatedSequences, index: int, layers: int, heads: int) -> None:
        self._sequences = sequences
        self._sums = {name: np.zeros((layers, heads)) for name in _MEAN_WEIGHTS.values()}
        self._counts = {name: np.zeros(layers) for name in _MEAN_WEIGHTS.values()}
        # distances of positional heads: 1 belongs to previous-token heads, and few queries have distant keys
        self._offsets = np.array([0, *range(2, 1 + min(_MAX_OFFSET, sequences.length // 4))])
        self._peaks = np.zeros((len(self._offsets), layers, heads))
        self._peak_counts = np.zeros((len(self._offsets), layers))
        self._statistics = PromptStatistics(sequences.ids[index], layers, heads)

    def add(self, layer: int, chunk: PatternChunk) -> None:
        """Adds a chunk; `layer` is an index into the layers."""
        queries, blocks = chunk.queries, self._sequences
        for name, keys in (
            ("previous", queries - 1),
            ("duplicate", blocks.first_block_keys(queries)),
            ("induction", blocks.first_block_keys(queries, 1)),
        ):
            wanted = keys >= 0
            weights = chunk.at(keys)[:, wanted]
            self._sums[name][layer, : len(weights)] += weights.sum(axis=1)
            self._counts[name][layer] += wanted.sum()
        peaks = queries - chunk.keys[chunk.weights.argmax(axis=2)]  # (head, query)
        for index, distance in enumerate(self._offsets):
            far = queries >= max(distance, 1)
            self._peaks[index, layer, : len(peaks)] += (peaks == distance)[:, far].sum(axis=1)
            self._peak_counts[index, layer] += far.sum()
        self._statistics.add(layer, chunk)

    def merge(self, other: SequenceScores) -> None:
        """Adds the sums of another sequence."""
        for name in self._sums:
            self._sums[name] += other._sums[name]
            self._counts[name] += other._counts[name]
        self._peaks += other._peaks
        self._peak_counts += other._peak_counts
        self._statistics.merge(other._statistics)

    def scores(self) -> dict[pb.HeadRole.ValueType, Floats]:
        """Scores by role (layer, head); NaN for missing heads."""
        shares = self._shares()
        found = {
            pb.HEAD_ROLE_FIRST_TOKEN_SINK: self._statistics.array("first_token"),
            pb.HEAD_ROLE_UNIFORM: self._statistics.array("normalised_entropy"),
            pb.HEAD_ROLE_POSITIONAL: shares.max(axis=0).astype(np.float32),
        }
        for role, name in _MEAN_WEIGHTS.items():
            found[role] = (self._sums[name] / np.maximum(self._counts[name], 1)[:, None]).astype(np.float32)
        missing = np.isnan(self._statistics.array("focus"))
        return {role: np.where(missing, np.float32(np.nan), values) for role, values in found.items()}

    def peak_distances(self) -> NDArray[np.int64]:
        """The most frequent distance of each head's largest weight (layer, head)."""
        return self._offsets[self._shares().argmax(axis=0)]

    def _shares(self) -> NDArray[np.float64]:
        return self._peaks / np.maximum(self._peak_counts, 1)[:, :, None]
