"""Selection of edges by their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import INPUT
from neuroscope_analysis.circuits.evaluator import faithfulness
from neuroscope_analysis.circuits.pair_runs import PairRuns
from neuroscope_analysis.circuits.scoring import Scores

_SIZES_PER_ROUND = 8


@dataclass(frozen=True, slots=True)
class Ranking:
    """Edges or nodes ranked by score.

    Args:
        graph: the graph of the model.
        scores: the scores.
        of_nodes: ranks nodes; a circuit has all edges between its nodes.
        keeps_dangling: keeps edges that are on no path from input to logits.
    """

    graph: ComponentGraph
    scores: Scores
    of_nodes: bool
    keeps_dangling: bool

    @property
    def count(self) -> int:
        """Number of edges or nodes."""
        return len(self.graph.senders) if self.of_nodes else self.graph.edge_count

    def strongest(self, extent: Extent) -> Mask:
        """The edges of the strongest ones."""
        if self.of_nodes:
            assert self.scores.nodes is not None
            scores = dict(zip(self.graph.senders, self.scores.nodes.tolist(), strict=True))
            chosen = self.graph.induced([INPUT, *extent.nodes(scores, self.count)])
        else:
            assert self.scores.edges is not None
            chosen = extent.edges(self.graph, self.scores.edges, self.count)
        return chosen if self.keeps_dangling else self.graph.pruned(chosen)

    def of_size(self, size: float) -> Mask:
        """The edges of a share of all."""
        return self.graph.mask if size == 1 else self.strongest(Extent(size=size))


async def select_edges(ranking: Ranking, search: pb.CircuitSearch, runs: PairRuns) -> Mask:
    """The edges of a search."""
    match search.WhichOneof("extent"):
        case "count":
            return ranking.strongest(Extent(count=search.count))
        case "threshold":
            return ranking.strongest(Extent(threshold=search.threshold))
        case "faithfulness":
            return await _smallest_faithful(ranking, search.faithfulness, runs)
        case _:
            return ranking.strongest(Extent(size=search.size))


async def _smallest_faithful(ranking: Ranking, least: float, runs: PairRuns) -> Mask:
    """The smallest circuit with a minimum faithfulness, by a search that tries several sizes at a time.

    It assumes that faithfulness grows with size; otherwise a smaller circuit may exist.
    """
    graph = ranking.graph
    below, enough = 0, ranking.count
    while enough - below > 1:
        sizes = np.unique(np.linspace(below, enough, _SIZES_PER_ROUND + 2).round().astype(int))[1:-1]
        circuits = [ranking.strongest(Extent(count=int(size))) for size in sizes]
        values = await runs.patch_edges([graph.mask & ~circuit for circuit in circuits], "trying sizes")
        found = [faithfulness(runs, values[:, index]) for index in range(len(sizes))]
        first = next((index for index, value in enumerate(found) if value >= least), len(sizes))
        enough = int(sizes[first]) if first < len(sizes) else enough
        below = int(sizes[first - 1]) if first else below
    return ranking.strongest(Extent(count=enough))
