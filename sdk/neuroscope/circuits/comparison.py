"""Two circuits of the same graph beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.model_match import weights_difference
from neuroscope.display import Displayable, show

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class CircuitComparison(Displayable):
    """What two circuits share, and what only one of them has."""

    first: CircuitContent
    second: CircuitContent

    @property
    def warnings(self) -> list[str]:
        """What is to be known before the numbers are believed: that they are of two checkpoints."""
        other = weights_difference(self.first.message.model, self.second.message.model)
        return [f"circuits of two checkpoints: {other}"] if other else []

    @property
    def shared_nodes(self) -> list[str]:
        """Nodes of both."""
        return [name for name in self.first.nodes if name in self.second.nodes]

    @property
    def shared_edges(self) -> list[str]:
        """Edges of both."""
        return [name for name in self.first.edges if name in self.second.edges]

    @property
    def only_first(self) -> list[str]:
        """Edges of the first alone."""
        return [name for name in self.first.edges if name not in self.second.edges]

    @property
    def only_second(self) -> list[str]:
        """Edges of the second alone."""
        return [name for name in self.second.edges if name not in self.first.edges]

    @property
    def node_jaccard(self) -> float:
        """Shared nodes, of all nodes of either; 1 where neither has any."""
        return _jaccard(self.first.nodes.keys(), self.second.nodes.keys())

    @property
    def edge_jaccard(self) -> float:
        """Shared edges, of all edges of either; 1 where neither has any."""
        return _jaccard(self.first.edges.keys(), self.second.edges.keys())

    @property
    def scored_edges(self) -> list[str]:
        """Edges that both have a score of, in the circuit or not."""
        ours, theirs = self.first.all_edges, self.second.all_edges
        return [
            name
            for name, edge in ours.items()
            if edge.HasField("score") and name in theirs and theirs[name].HasField("score")
        ]

    @property
    def pearson(self) -> float:
        """Correlation of the scores of edges that both have; NaN of less than two, or where all are the same."""
        return _correlation(*self._scores())

    @property
    def spearman(self) -> float:
        """Correlation of their ranks; equals share theirs."""
        return _correlation(*map(ranks, self._scores()))

    def to_json(self) -> dict[str, Any]:
        """All of it, by name; what is not a number is null."""
        numbers = {name: getattr(self, name) for name in ("node_jaccard", "edge_jaccard", "pearson", "spearman")}
        lists = {name: getattr(self, name) for name in ("shared_nodes", "shared_edges", "only_first", "only_second")}
        told = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        names = {"first": self.first.name, "second": self.second.name}
        return {**names, "warnings": self.warnings, **told, **lists}

    def table(self) -> Table:
        """The numbers, and the strongest edges of either side."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: both circuits in one graph, and their scores against each other.

        Args:
            path: where to write it: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def _scores(self) -> tuple[list[float], list[float]]:
        names = self.scored_edges
        ours, theirs = self.first.all_edges, self.second.all_edges
        return [ours[name].score for name in names], [theirs[name].score for name in names]


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 0; equals share the mean of theirs."""
    _, where, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[where].tolist()


def _correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])


def _jaccard(ours: Any, theirs: Any) -> float:
    either = len(ours | theirs)
    return len(ours & theirs) / either if either else 1.0
