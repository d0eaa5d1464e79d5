"""Edges or nodes ranked by their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.vocabulary.component_names import INPUT
from neuroscope_analysis.circuits.scoring import Scores, node_scores


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

    @classmethod
    def of(cls, graph: ComponentGraph, scores: Scores, *, of_nodes: bool, keeps_dangling: bool) -> Ranking:
        """Ranks scores. A node without a score of its own has that of its outgoing edges."""
        if of_nodes and scores.nodes is None:
            assert scores.edges is not None
            scores = replace(scores, nodes=node_scores(graph, scores.edges))
        return cls(graph, scores, of_nodes, keeps_dangling)

    @property
    def count(self) -> int:
        """Number of edges or nodes."""
        return len(self.graph.senders) if self.of_nodes else self.graph.edge_count

    @property
    def pair_scores(self) -> NDArray[np.floating] | None:
        """The scores of each pair, (pairs, sender, receiver) or (pairs, sender); None if the method has none."""
        return self.scores.by_pair

    def resampled(self, weights: NDArray[np.float64]) -> Ranking:
        """The ranking by the weighted mean over pairs, with weights (pairs,) that sum to 1."""
        scores = self.scores.resampled(weights)
        return Ranking.of(self.graph, scores, of_nodes=self.of_nodes, keeps_dangling=self.keeps_dangling)

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
