"""The smallest circuit that reaches a faithfulness.

Faithfulness is measured at sizes that grow by a constant factor until one reaches the target, then between the last two
sizes by bisection on the logarithm. A size is the number of top-ranked edges (or nodes). The search takes the first
size that reaches the target: where faithfulness does not grow with the size, a smaller circuit may exist between the
measured ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_analysis.circuits.evaluator import KnownSizes, faithfulness_point
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.pair_runs import PairRuns, Values
from neuroscope_analysis.circuits.ranking import Ranking

_FIRST_SHARE = 0.001
"""The first size as a share of all edges or nodes."""
_GROWTH = 10**0.5
"""Ratio of successive sizes until the target is reached."""
_PRECISION = 1.05
"""Ratio of the smallest size that reaches the target and the largest that does not, at which the search ends."""


@dataclass(frozen=True, slots=True)
class _Measured:
    circuit: Mask
    values: Values
    point: pb.FaithfulnessPoint


@dataclass(frozen=True, slots=True)
class FoundSize:
    """The result of a search.

    Args:
        extent: the number of ranked edges or nodes.
        circuit: the edges (sender, receiver).
        known: what was measured; None if no run was needed.
    """

    extent: Extent
    circuit: Mask
    known: KnownSizes | None = None


class SizeSearch:
    """Searches for the smallest circuit of a ranking that reaches a faithfulness.

    Args:
        ranking: the ranked edges or nodes.
        target: the faithfulness to reach.
        runs: runs of the pairs.
        events: receives the measured sizes.
    """

    def __init__(self, ranking: Ranking, target: float, runs: PairRuns, events: EventQueue) -> None:
        self._ranking, self._target, self._runs, self._events = ranking, target, runs, events
        self._measured: dict[int, _Measured] = {}

    async def run(self) -> FoundSize:
        """The smallest circuit among the measured ones."""
        enough = await self._first_sufficient()
        short = max((count for count in self._measured if count < enough), default=0)
        while enough - short > 1 and enough > _PRECISION * short:
            middle = min(max(round(math.sqrt(max(short, 1) * enough)), short + 1), enough - 1)
            if (await self._measure(middle)).point.faithfulness >= self._target:
                enough = middle
            else:
                short = middle
        found = self._measured[enough]
        points = [self._measured[count].point for count in sorted(self._measured)]
        return FoundSize(Extent(count=enough), found.circuit, KnownSizes(found.values, points))

    async def _first_sufficient(self) -> int:
        size = max(_FIRST_SHARE * self._ranking.count, 1.0)
        while (count := min(round(size), self._ranking.count)) < self._ranking.count:
            if (await self._measure(count)).point.faithfulness >= self._target:
                return count
            size *= _GROWTH
        await self._measure(count)
        return count

    async def _measure(self, count: int) -> _Measured:
        if count not in self._measured:
            circuit = self._ranking.strongest(Extent(count=count))
            values = await self._patched(circuit)
            point = faithfulness_point(self._runs, values, count / self._ranking.count, circuit)
            self._measured[count] = _Measured(circuit, values, point)
            await self._events.partial(pb.CircuitPartial(point=point))
        return self._measured[count]

    async def _patched(self, circuit: Mask) -> Values:
        """The metric of a circuit (pairs,); circuits with a known one are not run."""
        if not circuit.any():
            return self._runs.corrupted
        for measured in self._measured.values():
            if np.array_equal(measured.circuit, circuit):
                return measured.values
        outside = self._ranking.graph.mask & ~circuit
        if not outside.any():
            return self._runs.clean
        stage = f"searching the size: {int(circuit.sum())} edges"
        return (await self._runs.patch_edges([outside], stage))[:, 0]
