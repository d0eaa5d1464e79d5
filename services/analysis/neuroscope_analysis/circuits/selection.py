"""Which edges are kept: the strongest by their scores, so many as the search asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import INPUT
from neuroscope_analysis.circuits.evaluation import faithfulness
from neuroscope_analysis.circuits.runs import PairRuns
from neuroscope_analysis.circuits.scoring import Scored

_SIZES_OF_A_ROUND = 8


@dataclass(frozen=True, slots=True)
class Ranking:
    """Edges or nodes by their scores.

    Args:
        graph: of the model.
        scored: their scores.
        of_nodes: whether nodes are chosen, each with all edges between them.
        keeps_dangling: whether edges stay that no path leads through from input to logits.
    """

    graph: ComponentGraph
    scored: Scored
    of_nodes: bool
    keeps_dangling: bool

    @property
    def count(self) -> int:
        """How many edges or nodes there are."""
        return len(self.graph.senders) if self.of_nodes else self.graph.edge_count

    def of(self, extent: Extent) -> Mask:
        """The strongest ones, as edges."""
        if self.of_nodes:
            assert self.scored.nodes is not None
            scores = dict(zip(self.graph.senders, self.scored.nodes.tolist(), strict=True))
            chosen = self.graph.induced([INPUT, *extent.nodes(scores, self.count)])
        else:
            assert self.scored.edges is not None
            chosen = extent.edges(self.graph, self.scored.edges, self.count)
        return chosen if self.keeps_dangling else self.graph.pruned(chosen)

    def at(self, size: float) -> Mask:
        """So large a share of all."""
        return self.graph.mask if size == 1 else self.of(Extent(size=size))


async def chosen(ranking: Ranking, search: pb.CircuitSearch, runs: PairRuns) -> Mask:
    """The edges that a search asks for."""
    match search.WhichOneof("extent"):
        case "count":
            return ranking.of(Extent(count=search.count))
        case "threshold":
            return ranking.of(Extent(threshold=search.threshold))
        case "faithfulness":
            return await _faithful(ranking, search.faithfulness, runs)
        case _:
            return ranking.of(Extent(size=search.size))


async def _faithful(ranking: Ranking, least: float, runs: PairRuns) -> Mask:
    """The smallest circuit that is so faithful, several sizes between too few and enough at a time.

    Faithfulness is taken to grow with size; where it does not, a smaller circuit may do as well.
    """
    graph = ranking.graph
    below, enough = 0, ranking.count
    while enough - below > 1:
        sizes = np.unique(np.linspace(below, enough, _SIZES_OF_A_ROUND + 2).round().astype(int))[1:-1]
        circuits = [ranking.of(Extent(count=int(size))) for size in sizes]
        values = await runs.changed([graph.mask & ~circuit for circuit in circuits], "trying sizes")
        found = [faithfulness(runs, values[:, index]) for index in range(len(sizes))]
        first = next((index for index, value in enumerate(found) if value >= least), len(sizes))
        enough = int(sizes[first]) if first < len(sizes) else enough
        below = int(sizes[first - 1]) if first else below
    return ranking.of(Extent(count=enough))
