"""How well a circuit does: every edge outside of it carries what it carries in the corrupted run.

With m the mean metric over the pairs, C the circuit and M the whole graph,

    faithfulness   f(C) = (m(C) - m(corrupted)) / (m(clean) - m(corrupted))
    completeness   1 - f(M without C)
    minimality     the share of edges e of C with f(C) - f(C without e) above a bound
    CPR            the area under f(C_k) over the sizes k, by trapezoids
    CMD            the area between f(C_k) and 1, likewise

where C_k are the strongest k of the edges (Mueller et al. 2025, arXiv:2504.13151, at their sizes by default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_analysis.circuits.outbox import Outbox
from neuroscope_analysis.circuits.runs import PairRuns, Values


def faithfulness(runs: PairRuns, values: Values) -> float:
    """Of runs with these metrics (pairs,)."""
    return float((values - runs.corrupted).mean() / runs.gap)


def standard_error(runs: PairRuns, values: Values) -> float:
    """Of the faithfulness, a ratio of means over the pairs, to first order (pairs,)."""
    gaps, recovered = runs.clean - runs.corrupted, values - runs.corrupted
    rest = recovered - faithfulness(runs, values) * gaps
    return float(rest.std(ddof=1) / np.sqrt(len(rest)) / abs(gaps.mean()))


class Evaluation:
    """Measures circuits of one graph.

    Args:
        graph: of the model.
        runs: of the pairs.
        options: what is measured, with its defaults filled in.
        dataset: the pairs.
        outbox: hears what has been measured.
    """

    def __init__(
        self,
        graph: ComponentGraph,
        runs: PairRuns,
        options: pb.EvaluationOptions,
        dataset: pb.CircuitDataset,
        outbox: Outbox,
    ) -> None:
        self._graph, self._runs, self._options = graph, runs, options
        self._dataset, self._outbox = dataset, outbox

    async def of(
        self, circuit: Mask, at: Callable[[float], Mask]
    ) -> tuple[pb.CircuitEvaluation, dict[tuple[str, str], float]]:
        """What is measured of a circuit, and the loss of faithfulness without each of its edges.

        Args:
            circuit: its edges (sender, receiver).
            at: the circuit of a share of the graph.
        """
        graph, runs, options = self._graph, self._runs, self._options
        sets = [graph.mask & ~circuit]
        if options.completeness:
            sets.append(circuit)
        values = await runs.changed(sets, "measuring faithfulness")
        found = pb.CircuitEvaluation(
            clean=runs.clean.mean(),
            corrupted=runs.corrupted.mean(),
            circuit=values[:, 0].mean(),
            faithfulness=faithfulness(runs, values[:, 0]),
            edge_count=int(circuit.sum()),
            node_count=len(graph.nodes_of(circuit)),
            dataset=self._dataset,
        )
        if len(values) > 1:
            found.faithfulness_standard_error = standard_error(runs, values[:, 0])
        if options.completeness:
            found.completeness = 1 - faithfulness(runs, values[:, 1])
        await self._outbox.partial(pb.CircuitPartial(evaluation=found))
        losses: dict[tuple[str, str], float] = {}
        if options.minimality:
            losses = await self._losses(circuit, found.faithfulness)
            found.minimality_bound = options.minimality_bound
            passed = [loss > options.minimality_bound for loss in losses.values()]
            found.minimality = float(np.mean(passed)) if passed else 1.0
            await self._outbox.partial(pb.CircuitPartial(evaluation=found))
        if options.curve:
            await self._draw(found, at)
        return found, losses

    async def _losses(self, circuit: Mask, whole: float) -> dict[tuple[str, str], float]:
        """Of faithfulness, without each edge."""
        edges = np.argwhere(circuit)

        def without(number: int) -> Mask:
            changed = self._graph.mask & ~circuit
            changed[tuple(edges[number])] = True
            return changed

        values = await self._runs.made(len(edges), without, "leaving edges out")
        names = self._graph.edge_pairs(circuit)
        return {name: whole - faithfulness(self._runs, values[:, index]) for index, name in enumerate(names)}

    async def _draw(self, found: pb.CircuitEvaluation, at: Callable[[float], Mask]) -> None:
        sizes = list(self._options.curve_sizes)
        circuits = [at(size) for size in sizes]
        values = await self._runs.changed([self._graph.mask & ~circuit for circuit in circuits], "drawing the curve")
        for index, (size, circuit) in enumerate(zip(sizes, circuits, strict=True)):
            point = pb.FaithfulnessPoint(
                size=size, edge_count=int(circuit.sum()), faithfulness=faithfulness(self._runs, values[:, index])
            )
            found.curve.append(point)
            await self._outbox.partial(pb.CircuitPartial(point=point))
        if sizes[-1] < 1:
            return  # a part of the curve has a part of the area, which nobody could compare
        found.cpr = area(sizes, [point.faithfulness for point in found.curve])
        found.cmd = area(sizes, [abs(1 - point.faithfulness) for point in found.curve])


def area(sizes: Sequence[float], heights: Sequence[float]) -> float:
    """Under a line through points, between the first size and the last."""
    points = list(zip(sizes, heights, strict=True))
    return sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))
