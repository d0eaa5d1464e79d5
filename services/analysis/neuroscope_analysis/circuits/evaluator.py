"""Metrics of circuits. Every edge outside the circuit carries its activation of the corrupted run.

With m the mean metric over the pairs, C the circuit and M the whole graph,

    faithfulness   f(C) = (m(C) - m(corrupted)) / (m(clean) - m(corrupted))
    completeness   1 - f(M without C)
    minimality     the share of edges e of C with f(C) - f(C without e) above a bound
    CPR            the area under f(C_k) over the sizes k, by the trapezoidal rule
    CMD            the area between f(C_k) and 1

where C_k are the strongest k edges (Mueller et al. 2025, arXiv:2504.13151; their sizes by default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.hypothesis_tests import MIN_PAIRS, equivalence_p_value, independence_p_value
from neuroscope_analysis.circuits.pair_runs import PairRuns, Values


def faithfulness(runs: PairRuns, values: Values) -> float:
    """The faithfulness of runs with these metrics (pairs,)."""
    return float((values - runs.corrupted).mean() / runs.metric_gap)


def standard_error(runs: PairRuns, values: Values) -> float:
    """The standard error of the faithfulness, a ratio of means, to first order."""
    gaps, recovered = runs.clean - runs.corrupted, values - runs.corrupted
    rest = recovered - faithfulness(runs, values) * gaps
    return float(rest.std(ddof=1) / np.sqrt(len(rest)) / abs(gaps.mean()))


@dataclass(frozen=True, slots=True)
class KnownSizes:
    """What a search for the size of a circuit has measured.

    Args:
        values: the metric of the circuit's runs (pairs,).
        points: the measured sizes, ascending.
    """

    values: Values
    points: Sequence[pb.FaithfulnessPoint]


def faithfulness_point(runs: PairRuns, values: Values, size: float, circuit: Mask) -> pb.FaithfulnessPoint:
    """A point of the faithfulness curve.

    Args:
        runs: runs of the pairs.
        values: the metric of the circuit's runs (pairs,).
        size: the share of edges or nodes.
        circuit: its edges (sender, receiver).
    """
    point = pb.FaithfulnessPoint(size=size, edge_count=int(circuit.sum()), faithfulness=faithfulness(runs, values))
    if len(values) > 1:
        point.faithfulness_standard_error = standard_error(runs, values)
    return point


class CircuitEvaluator:
    """Measures circuits of one graph.

    Args:
        graph: the graph of the model.
        runs: runs of the pairs.
        options: what is measured, with defaults filled in.
        dataset: the origin of the pairs.
        events: receives partial results.
    """

    def __init__(
        self,
        graph: ComponentGraph,
        runs: PairRuns,
        options: pb.EvaluationOptions,
        dataset: pb.CircuitDataset,
        events: EventQueue,
    ) -> None:
        self._graph, self._runs, self._options = graph, runs, options
        self._dataset, self._events = dataset, events

    async def evaluate(
        self, circuit: Mask, at: Callable[[float], Mask], known: KnownSizes | None = None
    ) -> tuple[pb.CircuitEvaluation, dict[tuple[str, str], float]]:
        """Measures a circuit; also returns the loss of faithfulness without each of its edges.

        Args:
            circuit: its edges (sender, receiver).
            at: returns the circuit with a share of the graph's edges.
            known: sizes that the search has measured.
        """
        graph, runs, options = self._graph, self._runs, self._options
        sets = [] if known else [graph.mask & ~circuit]
        if options.completeness:
            sets.append(circuit)
        measured = await runs.patch_edges(sets, "measuring faithfulness") if sets else np.empty((len(runs.clean), 0))
        values = known.values if known else measured[:, 0]
        found = pb.CircuitEvaluation(
            clean=runs.clean.mean(),
            corrupted=runs.corrupted.mean(),
            circuit=values.mean(),
            faithfulness=faithfulness(runs, values),
            edge_count=int(circuit.sum()),
            node_count=len(graph.nodes_of(circuit)),
            dataset=self._dataset,
        )
        if len(values) > 1:
            found.faithfulness_standard_error = standard_error(runs, values)
        if options.completeness:
            found.completeness = 1 - faithfulness(runs, measured[:, -1])
        if len(values) >= MIN_PAIRS:
            found.equivalence_p_value = equivalence_p_value(values, runs.clean)
            if options.completeness:
                found.independence_p_value = independence_p_value(measured[:, -1], runs.clean)
        found.curve.extend(known.points if known else [])
        await self._events.partial(pb.CircuitPartial(evaluation=found))
        losses: dict[tuple[str, str], float] = {}
        if options.minimality:
            losses = await self._removal_effects(circuit, found.faithfulness)
            found.minimality_bound = options.minimality_bound
            passed = [loss > options.minimality_bound for loss in losses.values()]
            found.minimality = float(np.mean(passed)) if passed else 1.0
            await self._events.partial(pb.CircuitPartial(evaluation=found))
        if options.curve:
            await self._faithfulness_curve(found, at)
        return found, losses

    async def _removal_effects(self, circuit: Mask, whole: float) -> dict[tuple[str, str], float]:
        """The loss of faithfulness without each edge."""
        edges = np.argwhere(circuit)

        def without(number: int) -> Mask:
            changed = self._graph.mask & ~circuit
            changed[tuple(edges[number])] = True
            return changed

        values = await self._runs.patch_edge_batches(len(edges), without, "leaving edges out")
        names = self._graph.edge_pairs(circuit)
        return {name: whole - faithfulness(self._runs, values[:, index]) for index, name in enumerate(names)}

    async def _faithfulness_curve(self, found: pb.CircuitEvaluation, at: Callable[[float], Mask]) -> None:
        sizes = list(self._options.curve_sizes)
        circuits = [at(size) for size in sizes]
        values = await self._runs.patch_edges(
            [self._graph.mask & ~circuit for circuit in circuits], "drawing the curve"
        )
        points = [
            faithfulness_point(self._runs, values[:, index], size, circuit)
            for index, (size, circuit) in enumerate(zip(sizes, circuits, strict=True))
        ]
        for point in points:
            await self._events.partial(pb.CircuitPartial(point=point))
        curve = {point.size: point for point in (*found.curve, *points)}
        del found.curve[:]
        found.curve.extend(curve[size] for size in sorted(curve))
        if sizes[-1] < 1:
            return  # areas are comparable over the full range of sizes only
        found.cpr = trapezoid_area(sizes, [point.faithfulness for point in points])
        found.cmd = trapezoid_area(sizes, [abs(1 - point.faithfulness) for point in points])


def trapezoid_area(sizes: Sequence[float], heights: Sequence[float]) -> float:
    """The area under a curve by the trapezoidal rule."""
    points = list(zip(sizes, heights, strict=True))
    return sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))


def write_removal_effects(circuit: pb.Circuit, losses: dict[tuple[str, str], float]) -> None:
    """Writes the effect of removing each edge into a circuit."""
    for edge in circuit.edges:
        if (loss := losses.get((edge.sender, edge.receiver))) is not None and edge.in_circuit:
            edge.removal_effect = loss
