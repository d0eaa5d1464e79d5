"""ACDC (Conmy et al. 2023, arXiv:2304.14997): edges are taken out one after the other, from the logits back.

Receivers come in the reverse of the order in which they read, their senders in the reverse of that in which they write.
An edge is taken out, for good, where that changes the mean metric of the pairs by less than the threshold, all edges
that went before being out; what is out carries what the sender writes in the corrupted run. The divergence from the
clean run, the metric of the paper, may also fall by more. Edges into a node whose own edges are all out reach nothing,
and go untested.

Each test depends on those before it. So a batch of tests is run on the guess that its edges meet the fate of the last
one: up to the first that does not, results are those of one test after the other; what comes behind is run again.
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
"""Tests of a batch: after a guess that was wrong, and at most."""
Edge = tuple[int, int]


class Acdc:
    """One search.

    Args:
        graph: of the model.
        runs: of the pairs.
        threshold: tau, in units of the metric.
        may_fall: whether the metric may fall by any amount: a divergence.
        outbox: hears of what is decided.

    Attributes:
        kept: edges that are in (sender, receiver).
        scores: the change of the metric as each edge was taken out; NaN where it was not tested.
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
        """Decides every edge."""
        current, place, size, guess = float(self._runs.clean.mean()), 0, _MIN_BATCH, False
        while True:
            places, sets = self._speculate(place, size, stays=guess)
            if not places:
                break
            changed = self._graph.mask & ~np.stack(sets)
            values = (await self._runs.patch_edges(changed, "")).mean(axis=0)
            size = min(2 * size, _MAX_BATCH)
            told = pb.CircuitEdges()
            for at, kept, value in zip(places, sets, values.tolist(), strict=True):
                edge, change, place = self._order[at], value - current, at + 1
                self.scores[edge], self.kept = change, kept
                stays = change >= self._threshold or (not self._may_fall and -change >= self._threshold)
                sender, receiver = self._graph.senders[edge[0]], self._graph.receivers[edge[1]]
                told.edges.add(sender=sender, receiver=receiver, score=change, in_circuit=stays)
                if stays:
                    kept[edge] = True
                else:
                    current = value
                if stays != guess:
                    guess, size = stays, _MIN_BATCH
                    break
            await self._events.partial(pb.CircuitPartial(edges=told))
            await self._events.progress("taking edges out", place, len(self._order))

    def _speculate(self, first: int, size: int, *, stays: bool) -> tuple[list[int], list[Mask]]:
        """The next tests, if all of their edges stay, or go: where they are in the order, and what each leaves.

        Where none is left to test, what is untested goes.
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
        """Whether something reads what a receiver's node writes."""
        writers = self._writers[column]
        return not writers or bool(kept[writers].any())
