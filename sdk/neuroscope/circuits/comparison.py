"""Comparison of two circuits of the same graph."""

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
    """Overlap and differences of two circuits."""

    first: CircuitContent
    second: CircuitContent

    @property
    def warnings(self) -> list[str]:
        """Why the comparison may mislead: the circuits are of different checkpoints."""
        other = weights_difference(self.first.message.model, self.second.message.model)
        return [f"circuits of two checkpoints: {other}"] if other else []

    @property
    def shared_nodes(self) -> list[str]:
        """Nodes in both circuits."""
        return [name for name in self.first.nodes if name in self.second.nodes]

    @property
    def shared_edges(self) -> list[str]:
        """Edges in both circuits."""
        return [name for name in self.first.edges if name in self.second.edges]

    @property
    def only_first(self) -> list[str]:
        """Edges in the first circuit only."""
        return [name for name in self.first.edges if name not in self.second.edges]

    @property
    def only_second(self) -> list[str]:
        """Edges in the second circuit only."""
        return [name for name in self.second.edges if name not in self.first.edges]

    @property
    def node_jaccard(self) -> float:
        """Jaccard index of the node sets; 1 if both are empty."""
        return _jaccard(self.first.nodes.keys(), self.second.nodes.keys())

    @property
    def edge_jaccard(self) -> float:
        """Jaccard index of the edge sets; 1 if both are empty."""
        return _jaccard(self.first.edges.keys(), self.second.edges.keys())

    @property
    def scored_edges(self) -> list[str]:
        """Edges with a score in both, whether or not they are in the circuits."""
        ours, theirs = self.first.all_edges, self.second.all_edges
        return [
            name
            for name, edge in ours.items()
            if edge.HasField("score") and name in theirs and theirs[name].HasField("score")
        ]

    @property
    def pearson(self) -> float:
        """Pearson correlation of the scores of `scored_edges`; NaN for fewer than two, or if all are equal."""
        return _correlation(*self._scores())

    @property
    def spearman(self) -> float:
        """Spearman rank correlation of the same scores; ties share their mean rank."""
        return _correlation(*map(ranks, self._scores()))

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON; NaN is null."""
        numbers = {name: getattr(self, name) for name in ("node_jaccard", "edge_jaccard", "pearson", "spearman")}
        lists = {name: getattr(self, name) for name in ("shared_nodes", "shared_edges", "only_first", "only_second")}
        finite = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        names = {"first": self.first.name, "second": self.second.name}
        return {**names, "warnings": self.warnings, **finite, **lists}

    def table(self) -> Table:
        """Overlap, and the strongest edges of each side."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: both circuits in one graph, and a scatter plot of their scores.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def _scores(self) -> tuple[list[float], list[float]]:
        names = self.scored_edges
        ours, theirs = self.first.all_edges, self.second.all_edges
        return [ours[name].score for name in names], [theirs[name].score for name in names]


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 0; ties share their mean rank."""
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
