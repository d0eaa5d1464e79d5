"""Stability of a circuit under resampling of its pairs.

Each bootstrap resample (Efron 1979) draws as many pairs as there are, with replacement, averages their scores anew and
takes the circuit of the same extent. No forward pass is run: the scores of each pair are kept from the search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_analysis.circuits.ranking import Ranking

MIN_PAIRS = 4
"""Fewer pairs give too few different resamples."""
_SEED = 0
_INTERVAL = (2.5, 97.5)
"""Percentiles of the interval."""


@dataclass(frozen=True, slots=True)
class Stability:
    """The stability of a circuit.

    Args:
        message: the similarity of the resampled circuits to the circuit.
        inclusion: the share of the resampled circuits that have an edge (sender, receiver).
    """

    message: pb.CircuitStability
    inclusion: NDArray[np.float64]


def measure_stability(ranking: Ranking, extent: Extent, circuit: Mask, resamples: int) -> Stability:
    """Resamples the pairs of a ranking.

    Args:
        ranking: its scores have those of each pair.
        extent: of the circuit.
        circuit: its edges (sender, receiver).
        resamples: number of resamples.
    """
    by_pair = ranking.pair_scores
    assert by_pair is not None
    draws = np.random.default_rng(_SEED)
    inclusion, similarities = np.zeros(circuit.shape), np.empty(resamples)
    for index in range(resamples):
        weights = draws.multinomial(len(by_pair), np.full(len(by_pair), 1 / len(by_pair))) / len(by_pair)
        found = ranking.resampled(weights).strongest(extent)
        inclusion += found
        union = int((found | circuit).sum())
        similarities[index] = int((found & circuit).sum()) / union if union else 1.0
    low, high = np.percentile(similarities, _INTERVAL)
    message = pb.CircuitStability(
        resample_count=resamples, jaccard=float(similarities.mean()), jaccard_low=float(low), jaccard_high=float(high)
    )
    return Stability(message, inclusion / resamples)


def write_inclusion(circuit: pb.Circuit, graph: ComponentGraph, inclusion: NDArray[np.float64]) -> None:
    """Writes the inclusion of each edge (sender, receiver) into a circuit."""
    for edge in circuit.edges:
        edge.inclusion = inclusion[graph.rows[edge.sender], graph.columns[edge.receiver]]
