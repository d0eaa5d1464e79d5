"""Scores of edges or nodes: the change of the metric when they carry the activation of the other run.

Patching runs the model for each of them; gradients approximate all of them to first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.graph import ComponentGraph
from neuroscope.experiments.paths import to_receivers, to_senders
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2, site_pb2
from neuroscope.vocabulary.component_names import INPUT, Place
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.pair_runs import OTHER_RUN, PairRuns, Values
from neuroscope_analysis.circuits.request import DiscoveryJob


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in units of the metric, averaged over the pairs; NaN for missing ones.

    Args:
        edges: (sender, receiver); None if nodes are scored.
        nodes: (sender,); None if edges are scored.
        by_pair: scores of each pair, (pairs, sender, receiver) or (pairs, sender); None if the method has none.
    """

    edges: NDArray[np.float64] | None = None
    nodes: NDArray[np.float64] | None = None
    by_pair: NDArray[np.floating] | None = None

    @classmethod
    def mean(cls, by_pair: NDArray[np.floating]) -> Scores:
        """The mean over pairs of scores (pairs, sender, receiver) or (pairs, sender)."""
        mean = by_pair.mean(axis=0, dtype=np.float64)
        return cls(edges=mean, by_pair=by_pair) if mean.ndim > 1 else cls(nodes=mean, by_pair=by_pair)

    def resampled(self, weights: Values) -> Scores:
        """The weighted mean over pairs, with weights (pairs,) that sum to 1."""
        assert self.by_pair is not None
        mean = np.tensordot(weights, self.by_pair, axes=1)
        return Scores(edges=mean) if mean.ndim > 1 else Scores(nodes=mean)

    @property
    def strongest(self) -> float:
        """The largest magnitude."""
        values = self.edges if self.nodes is None else self.nodes
        assert values is not None
        magnitudes = np.abs(values[np.isfinite(values)])
        return float(magnitudes.max()) if magnitudes.size else 0.0


async def compute_scores(job: DiscoveryJob, runs: PairRuns, events: EventQueue) -> Scores:
    """Scores all edges or nodes, by any method except ACDC; reports patched edges as they come."""
    search = job.search
    match search.method:
        case pb.CIRCUIT_METHOD_ACTIVATION_PATCHING:
            return Scores.mean(await _patched_nodes(job, runs))
        case pb.CIRCUIT_METHOD_ATTRIBUTION_PATCHING:
            return Scores.mean(await _attributed_nodes(job, runs))
        case pb.CIRCUIT_METHOD_EDGE_PATCHING:
            return Scores.mean(await _patched_edges(job, runs, events))
        case pb.CIRCUIT_METHOD_PATH_PATCHING:
            return Scores.mean(await _patched_paths(job, runs, events))
        case _:
            steps = 1 if search.method == pb.CIRCUIT_METHOD_EAP else search.steps
            edges = experiment_pb2.EdgeAttribution(steps=steps)
            result = await runs.attribute("taking gradients", search.edited_run, edges=edges)
            shape = (len(job.task.pairs), *job.task.graph.mask.shape)
            return Scores.mean(result["edges"].values.reshape(shape))


async def _patched_edges(job: DiscoveryJob, runs: PairRuns, events: EventQueue) -> NDArray[np.float64]:
    """Patches each edge alone (pairs, sender, receiver)."""
    graph, run = job.task.graph, job.search.edited_run
    edges, found = np.argwhere(graph.mask), np.full((len(job.task.pairs), *graph.mask.shape), np.nan)

    def alone(number: int) -> NDArray[np.bool_]:
        changed = np.zeros_like(graph.mask)
        changed[tuple(edges[number])] = True
        return changed

    async def tell(numbers: range, values: Values) -> None:
        some = edges[numbers.start : numbers.stop]
        found[:, some[:, 0], some[:, 1]] = values - runs.unedited(run)[:, None]
        await _send_scores(graph, found, some, events)

    await runs.patch_edge_batches(len(edges), alone, "patching edges", run, tell)
    return found


async def _send_scores(
    graph: ComponentGraph, scores: NDArray[np.float64], edges: NDArray[np.int64], events: EventQueue
) -> None:
    """Sends the mean scores of edges (edge, 2), which index rows and columns."""
    message = pb.CircuitEdges()
    means = scores[:, edges[:, 0], edges[:, 1]].mean(axis=0).tolist()
    for (row, column), score in zip(edges.tolist(), means, strict=True):
        message.edges.add(sender=graph.senders[row], receiver=graph.receivers[column], score=score)
    await events.partial(pb.CircuitPartial(edges=message))


async def _patched_nodes(job: DiscoveryJob, runs: PairRuns) -> NDArray[np.float64]:
    """Patches the output of each node for all its receivers (pairs, sender)."""
    graph, run = job.task.graph, job.search.edited_run
    rows = np.eye(len(graph.senders), dtype=bool)[:, :, None] & graph.mask[None]
    values = await runs.patch_edges(rows, "patching nodes", run)
    return values - runs.unedited(run)[:, None]


async def _patched_paths(job: DiscoveryJob, runs: PairRuns, events: EventQueue) -> NDArray[np.float64]:
    """Patches paths from each sender to each receiver, directly or through MLPs (Wang et al. 2022).

    Returns (pairs, sender, receiver).
    """
    graph, run = job.task.graph, job.search.edited_run
    found = np.full((len(job.task.pairs), *graph.mask.shape), np.nan)
    readers = sorted(range(len(graph.receivers)), key=lambda column: graph.sender_counts[column])
    for count, group in groupby(readers, key=lambda column: graph.sender_counts[column]):
        columns = list(group)
        grid = experiment_pb2.PathGrid(
            senders=to_senders(graph.senders[:count]),
            receivers=to_receivers([graph.receivers[column] for column in columns]),
            value=OTHER_RUN,
            recompute_mlps=True,
        )
        result = await runs.patch_paths([grid], run, f"patching paths to {graph.receivers[columns[0]]} and beside it")
        effects = runs.by_pair(result.values) - runs.unedited(run)[:, None]
        found[:, :count, columns] = effects.reshape(-1, count, len(columns))
        await _send_scores(graph, found, np.array(list(product(range(count), columns))), events)
    return found


async def _attributed_nodes(job: DiscoveryJob, runs: PairRuns) -> NDArray[np.float64]:
    """Approximates patching of each node's output to first order (pairs, sender)."""
    graph, run = job.task.graph, job.search.edited_run
    places = [Place.of(sender) for sender in graph.senders]
    heads = sorted({place.layer for place in places if place.head is not None and place.layer is not None})
    mlps = sorted({place.layer for place in places if place.head is None and place.layer is not None})
    sites = [_site("resid_pre", [0])]
    sites += [_site("head_output", heads, by_head=True)] * bool(heads) + [_site("mlp_contrib", mlps)] * bool(mlps)
    nodes = experiment_pb2.NodeAttribution(sites=sites)
    result = await runs.attribute("taking gradients", run, nodes=nodes)
    found = np.full((len(job.task.pairs), len(graph.senders)), np.nan)
    for name, layers in (("resid_pre", [0]), ("head_output", heads), ("mlp_contrib", mlps)):
        if not layers:
            continue
        values = runs.by_pair(result[name].values).reshape(len(found), len(layers), -1)
        for index, layer in enumerate(layers):
            for head in range(values.shape[2]):
                found[:, graph.rows[_sender(name, layer, head)]] = values[:, index, head]
    return found


def _site(component: str, layers: Sequence[int], *, by_head: bool = False) -> experiment_pb2.NodeSite:
    return experiment_pb2.NodeSite(site=site_pb2.Site(component=component), layers=layers, by_head=by_head)


def _sender(component: str, layer: int, head: int) -> str:
    if component == "resid_pre":
        return INPUT
    return f"a{layer}.h{head}" if component == "head_output" else f"m{layer}"


def node_scores(graph: ComponentGraph, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score of a node: the sum over its outgoing edges."""
    return np.nansum(np.where(graph.mask, edges, np.nan), axis=1)
