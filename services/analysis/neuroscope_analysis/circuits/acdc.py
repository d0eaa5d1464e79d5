"""ACDC (Conmy et al. 2023, arXiv:2304.14997): edges are removed one by one, from the logits backwards.

Receivers are visited in reverse reading order, their senders in reverse writing order. An edge is removed if that
changes the mean metric of the pairs by less than the threshold, given the edges removed before; a removed edge carries
the sender's output of the corrupted run. A divergence from the clean run (the paper's metric) may decrease by any
amount. Edges into a node without outgoing edges are removed without a test.

Each test depends on the previous ones. A batch therefore speculates that all its edges share the fate of the last
tested edge. Results are valid up to the first edge that does not; the rest is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import LOGITS
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.pair_runs import PairRuns

_MIN_BATCH, _MAX_BATCH = 8, 128
"""Batch size after a wrong guess, and maximum batch size."""
Edge = tuple[int, int]


class Acdc:
    """One search.

    Args:
        graph: the graph of the model.
        runs: runs of the pairs.
        threshold: tau, in units of the metric.
        events: receives decisions.
        may_fall: the metric is a divergence, which may decrease by any amount.

    Attributes:
        kept: the kept edges (sender, receiver).
        scores: the change of the metric when each edge was removed; NaN if it was not tested.
    """

    def __init__(
        self, graph: ComponentGraph, runs: PairRuns, threshold: float, events: EventQueue, *, may_fall: bool
    ) -> None:
        self._graph, self._runs, self._events = graph, runs, events
        self._threshold, self._may_fall = threshold, may_fall
        self.kept: Mask = graph.mask.copy()
        self.scores: NDArray[np.float64] = np.full(graph.mask.shape, np.nan)
        self._order: Sequence[Edge] = [
            (row, column)
            for column in reversed(range(len(graph.receivers)))
            for row in reversed(range(graph.sender_counts[column]))
        ]
        self._writers = [
            [graph.rows[node] for node in graph.readers(receiver) if node != LOGITS] for receiver in graph.receivers
        ]

    async def run(self) -> None:
        """Decides all edges."""
        current, place, size, guess = float(self._runs.clean.mean()), 0, _MIN_BATCH, False
        while True:
            places, sets = self._speculate(place, size, stays=guess)
            if not places:
                break
            changed = self._graph.mask & ~np.stack(sets)
            values = (await self._runs.patch_edges(changed, "")).mean(axis=0)
            size = min(2 * size, _MAX_BATCH)
            message = pb.CircuitEdges()
            for at, kept, value in zip(places, sets, values.tolist(), strict=True):
                edge, change, place = self._order[at], value - current, at + 1
                self.scores[edge], self.kept = change, kept
                stays = change >= self._threshold or (not self._may_fall and -change >= self._threshold)
                sender, receiver = self._graph.senders[edge[0]], self._graph.receivers[edge[1]]
                message.edges.add(sender=sender, receiver=receiver, score=change, in_circuit=stays)
                if stays:
                    kept[edge] = True
                else:
                    current = value
                if stays != guess:
                    guess, size = stays, _MIN_BATCH
                    break
            await self._events.partial(pb.CircuitPartial(edges=message))
            await self._events.progress("taking edges out", place, len(self._order))

    def _speculate(self, first: int, size: int, *, stays: bool) -> tuple[list[int], list[Mask]]:
        """The next tests, if all their edges stay (or all go): indices into the order, and the kept edges of each.

        If there is none, the untested edges are removed.
        """
        kept = self.kept.copy()
        places: list[int] = []
        sets: list[Mask] = []
        for place in range(first, len(self._order)):
            row, column = self._order[place]
            kept[row, column] = False
            if not self._is_read(column, kept):
                continue
            places.append(place)
            sets.append(kept.copy())
            kept[row, column] = stays
            if len(places) == size:
                break
        if not places:
            self.kept = kept
        return places, sets

    def _is_read(self, column: int, kept: Mask) -> bool:
        """Whether the node of a receiver has outgoing edges."""
        writers = self._writers[column]
        return not writers or bool(kept[writers].any())
