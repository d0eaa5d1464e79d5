"""How much of a graph a circuit keeps: a share of it, a number of edges or nodes, or a score threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.errors import InvalidRequestError, nearest

DEFAULT_SIZE = 0.2
_NAMES = ("size", "count", "threshold", "prune")


@dataclass(frozen=True, slots=True)
class Extent:
    """Exactly one of size, count and threshold.

    Args:
        size: the share of the graph's edges or nodes, above 0 and at most 1.
        count: the number of edges or nodes.
        threshold: the least magnitude of a score.

    Raises:
        InvalidRequestError: not exactly one is given, or it is out of range.
    """

    size: float | None = None
    count: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in _NAMES[:3] if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidRequestError("give one of size, count and threshold", field=", ".join(given) or "size")
        if self.size is not None and not 0 < self.size <= 1:
            raise InvalidRequestError(f"a size is above 0 and at most 1, not {self.size}", field="size")
        if self.count is not None and self.count < 1:
            raise InvalidRequestError(f"a count is a number from 1, not {self.count}", field="count")
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise InvalidRequestError(f"a threshold is a number from 0, not {self.threshold}", field="threshold")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Extent:
        """From keyword arguments."""
        for name in given:
            if name not in _NAMES:
                close = nearest(name, _NAMES)
                raise InvalidRequestError(f"there is no {name!r}; nearest: {', '.join(close)}", field=name, valid=close)
        return cls(**{name: value for name, value in given.items() if name != "prune"})

    def edges(self, graph: ComponentGraph, scores: NDArray[np.floating], edge_count: int) -> Mask:
        """The strongest edges (sender, receiver)."""
        if self.threshold is not None:
            strengths = np.abs(np.nan_to_num(scores))
            return graph.mask & np.isfinite(scores) & (strengths >= self.threshold)
        return graph.strongest(scores, self._of(edge_count, "edges"))

    def nodes(self, scores: Mapping[str, float], node_count: int) -> list[str]:
        """The strongest nodes."""
        order = sorted(scores, key=lambda name: -abs(scores[name]))
        if self.threshold is not None:
            return [name for name in order if abs(scores[name]) >= self.threshold]
        return order[: self._of(node_count, "nodes")]

    def _of(self, whole: int, what: str) -> int:
        if self.size is not None:
            return max(round(self.size * whole), 1)
        assert self.count is not None
        if self.count > whole:
            raise InvalidRequestError(f"the graph has {whole} {what}, not {self.count}", field="count")
        return self.count
