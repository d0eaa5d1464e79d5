"""A search for a circuit, from its request to its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope import __version__
from neuroscope.circuits import Circuit
from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import Mask
from neuroscope.circuits.sources import circuit_model
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.circuits.acdc import Acdc
from neuroscope_analysis.circuits.effect_test import least_effect, run_difference, share_prompts
from neuroscope_analysis.circuits.evaluator import CircuitEvaluator, write_removal_effects
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.pair_runs import PairRuns
from neuroscope_analysis.circuits.plan import plan_message
from neuroscope_analysis.circuits.ranking import Ranking
from neuroscope_analysis.circuits.request import GRADIENT_METHODS, DiscoveryJob
from neuroscope_analysis.circuits.scoring import Scores, compute_scores
from neuroscope_analysis.circuits.size_search import FoundSize, SizeSearch
from neuroscope_analysis.circuits.stability import MIN_PAIRS, Stability, measure_stability, write_inclusion
from neuroscope_analysis.result_arrays import ResultArrays

_ACDC_SHARE = 0.01
"""Default threshold of ACDC, as a share of the metric's difference between the runs."""
_ROUTER_WARNING = "the model has routed experts: gradients hold the routing fixed and do not see effects of changing it"
EDGE_SCORE, NODE_SCORE = "edge_score", "node_score"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of a search."""

    mask: Mask
    scores: Scores | None = None
    evaluation: pb.CircuitEvaluation | None = None
    losses: dict[tuple[str, str], float] | None = None
    stability: Stability | None = None
    reason: str = ""
    """Why nothing was found; otherwise empty."""


class CircuitDiscovery:
    """Runs one search.

    Args:
        job: the validated request.
    """

    def __init__(self, job: DiscoveryJob) -> None:
        self._job = job
        self._events = EventQueue(pb.DiscoverCircuitResponse)
        self._runs = PairRuns(job.task, self._events)
        graph = job.task.graph
        axes, shape = (tensor_pb2.AXIS_SENDER, tensor_pb2.AXIS_RECEIVER), graph.mask.shape
        if job.scores_nodes:
            self._arrays = ResultArrays.of_shape([NODE_SCORE], "", axes[:1], shape[:1])
        else:
            self._arrays = ResultArrays.of_shape([EDGE_SCORE], "", axes, shape)

    def events(self) -> AsyncGenerator[Event, None]:
        """The plan, partial results and the result."""
        return self._events.events(self._run)

    async def _run(self) -> None:
        job, runs = self._job, self._runs
        await runs.run_unedited()
        search = pb.CircuitSearch()
        search.CopyFrom(job.search)
        if search.method == pb.CIRCUIT_METHOD_ACDC and not search.threshold:
            search.threshold = max(_ACDC_SHARE * abs(runs.metric_gap), float(np.finfo(np.float32).tiny))
        plan = plan_message(job.task, runs, job.evaluation)
        plan.arrays.CopyFrom(self._arrays.plan)
        plan.search.CopyFrom(search)
        if search.method in GRADIENT_METHODS and job.task.model.layers("router_logits"):
            plan.warnings.append(_ROUTER_WARNING)
        if len(job.task.pairs) == 1 and not search.effect_test.skip:
            plan.warnings.append("a single pair has no noise estimate: only the minimum effect is tested")
        await self._events.plan(plan)
        for baseline in runs.baseline_messages():
            await self._events.partial(baseline)
        found = await self._search(search)
        if found.scores is None:
            await self._send_scores(None)
        await self._events.send(pb.DiscoverCircuitResponse(result=self._result(found, search)))

    async def _search(self, search: pb.CircuitSearch) -> _Outcome:
        job, runs, graph = self._job, self._runs, self._job.task.graph
        nothing = np.zeros_like(graph.mask)
        if why := run_difference(
            runs.clean, runs.corrupted, search.effect_test, share_prompts(runs.tokens)
        ).why_no_effect:
            return _Outcome(nothing, reason=why)
        acdc: Acdc | None = None
        if search.method == pb.CIRCUIT_METHOD_ACDC:
            may_fall = job.task.metric.WhichOneof("kind") == "kl_divergence"
            acdc = Acdc(graph, runs, search.threshold, self._events, may_fall=may_fall)
            await acdc.run()
            scores = Scores(edges=acdc.scores)
        else:
            scores = await compute_scores(job, runs, self._events)
        await self._send_scores(scores)
        least = 0.0 if search.effect_test.skip else least_effect(runs.clean, runs.corrupted, search.effect_test)
        if scores.strongest <= least:
            what = "node" if job.scores_nodes else "edge"
            return _Outcome(
                nothing,
                scores,
                reason=f"no {what} has an effect above {least:.4g}: the strongest has {scores.strongest:.4g}",
            )
        by_node = search.granularity == pb.CIRCUIT_GRANULARITY_NODE
        ranking = Ranking.of(graph, scores, of_nodes=by_node, keeps_dangling=search.keep_dangling)
        found = None
        if acdc is not None:
            circuit = acdc.kept if search.keep_dangling else graph.pruned(acdc.kept)
        else:
            found = await self._select(ranking, search)
            circuit = found.circuit
        if job.evaluation.skip:
            return _Outcome(circuit, scores)
        measuring = CircuitEvaluator(graph, runs, job.evaluation, job.task.dataset, self._events)
        known = None if found is None else found.known
        evaluation, losses = await measuring.evaluate(circuit, ranking.of_size, known)
        stability = None
        resamples, pairs = job.evaluation.resample_count, len(runs.clean)
        if found is not None and resamples and pairs >= MIN_PAIRS and ranking.pair_scores is not None:
            await self._events.progress("resampling the pairs", 0, resamples)
            stability = await asyncio.to_thread(measure_stability, ranking, found.extent, circuit, resamples)
            evaluation.stability.CopyFrom(stability.message)
        return _Outcome(circuit, scores, evaluation, losses, stability)

    async def _select(self, ranking: Ranking, search: pb.CircuitSearch) -> FoundSize:
        """The circuit of the requested extent."""
        match search.WhichOneof("extent"):
            case "count":
                extent = Extent(count=search.count)
            case "threshold":
                extent = Extent(threshold=search.threshold)
            case "size":
                extent = Extent(size=search.size)
            case _:
                return await SizeSearch(ranking, search.faithfulness, self._runs, self._events).run()
        return FoundSize(extent, ranking.strongest(extent))

    async def _send_scores(self, scores: Scores | None) -> None:
        """Sends the scores before the evaluation, so that a later failure does not lose them."""
        for frame in self._arrays.frames(self._score_arrays(scores)):
            await self._events.send(frame)

    def _score_arrays(self, scores: Scores | None) -> dict[str, NDArray[np.float64]]:
        """The arrays of scores; NaN if nothing was scored."""
        shape = self._job.task.graph.mask.shape
        if self._job.scores_nodes:
            known = None if scores is None else scores.nodes
            return {NODE_SCORE: np.full(shape[0], np.nan) if known is None else known}
        known = None if scores is None else scores.edges
        if known is None:
            return {EDGE_SCORE: np.full(shape, np.nan)}
        return {EDGE_SCORE: np.where(self._job.task.graph.mask, known, np.nan)}

    def _result(self, found: _Outcome, search: pb.CircuitSearch) -> pb.DiscoveryResult:
        job, runs, graph = self._job, self._runs, self._job.task.graph
        nodes = None
        if found.scores is not None and found.scores.nodes is not None:
            nodes = dict(zip(graph.senders, found.scores.nodes.tolist(), strict=True))
        circuit = Circuit.from_mask(
            graph,
            found.mask,
            model=circuit_model(job.task.model.info),
            name=job.name,
            edge_scores=None if found.scores is None else found.scores.edges,
            node_scores=nodes,
            provenance=pb.CircuitProvenance(
                source="discovery",
                search=search,
                metric=job.task.metric,
                dataset=job.task.dataset,
                created_at_ms=time.time_ns() // 1_000_000,
                versions={"neuroscope": __version__},
                call_count=job.task.model.call_count,
                forward_passes=runs.forward_passes,
                elapsed_seconds=self._events.elapsed_s,
            ),
            evaluation=found.evaluation,
        ).message
        write_removal_effects(circuit, found.losses or {})
        if found.stability is not None:
            write_inclusion(circuit, graph, found.stability.inclusion)
        verdict = pb.DISCOVERY_VERDICT_NO_EFFECT if found.reason else pb.DISCOVERY_VERDICT_FOUND
        return pb.DiscoveryResult(circuit=circuit, verdict=verdict, reason=found.reason, token_count=runs.token_count)
