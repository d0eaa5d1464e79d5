"""A search for a circuit, and an evaluation of one, from their requests to their results."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope import __version__
from neuroscope.circuits import Circuit
from neuroscope.circuits.graph import Mask
from neuroscope.circuits.model_match import weights_difference
from neuroscope.circuits.sources import circuit_model
from neuroscope.experiments.edges import to_receiver, to_sender
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2, tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.arrays import NamedArrays
from neuroscope_analysis.circuits.acdc import Acdc
from neuroscope_analysis.circuits.effects import difference, least_effect, sharing
from neuroscope_analysis.circuits.evaluation import Evaluation
from neuroscope_analysis.circuits.outbox import Outbox
from neuroscope_analysis.circuits.request import OF_GRADIENTS, Asked, Discovery
from neuroscope_analysis.circuits.runs import PairRuns
from neuroscope_analysis.circuits.scoring import Scored, of_nodes, scored
from neuroscope_analysis.circuits.selection import Ranking, chosen

_ACDC_SHARE = 0.01
"""Of the change between the runs: the threshold of ACDC where the request states none."""
_ROUTED = "experts are chosen by a router: gradients hold the choice fixed, and do not see what a change of it does"
EDGE_SCORE, NODE_SCORE = "edge_score", "node_score"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search ends with."""

    circuit: Mask
    scored: Scored | None = None
    evaluation: pb.CircuitEvaluation | None = None
    losses: dict[tuple[str, str], float] | None = None
    reason: str = ""
    """Why there is nothing; empty where there is."""


class CircuitDiscovery:
    """Runs one search.

    Args:
        work: what is searched for.
    """

    def __init__(self, work: Discovery) -> None:
        self._work = work
        self._outbox = Outbox(pb.DiscoverCircuitResponse)
        self._runs = PairRuns(work.asked, self._outbox)
        graph = work.asked.graph
        axes, shape = (tensor_pb2.AXIS_SENDER, tensor_pb2.AXIS_RECEIVER), graph.mask.shape
        if work.of_nodes:
            self._arrays = NamedArrays.alike([NODE_SCORE], "", axes[:1], shape[:1])
        else:
            self._arrays = NamedArrays.alike([EDGE_SCORE], "", axes, shape)

    def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then what is found, then the result."""
        return self._outbox.events(self._run)

    async def _run(self) -> None:
        work, runs = self._work, self._runs
        await runs.begin()
        search = pb.CircuitSearch()
        search.CopyFrom(work.search)
        if search.method == pb.CIRCUIT_METHOD_ACDC and not search.threshold:
            search.threshold = max(_ACDC_SHARE * abs(runs.gap), float(np.finfo(np.float32).tiny))
        plan = planned(work.asked, runs, work.evaluation)
        plan.arrays.CopyFrom(self._arrays.plan)
        plan.search.CopyFrom(search)
        if search.method in OF_GRADIENTS and work.asked.model.layers("router_logits"):
            plan.warnings.append(_ROUTED)
        if len(work.asked.pairs) == 1 and not search.effect_test.skip:
            plan.warnings.append("one pair does not tell an effect from noise: the least effect alone is tested")
        await self._outbox.plan(plan)
        for baseline in runs.baselines():
            await self._outbox.partial(baseline)
        found = await self._searched(search)
        if found.scored is None:
            await self._tell(None)
        await self._outbox.send(pb.DiscoverCircuitResponse(result=self._result(found, search)))

    async def _searched(self, search: pb.CircuitSearch) -> _Found:
        work, runs, graph = self._work, self._runs, self._work.asked.graph
        nothing = np.zeros_like(graph.mask)
        if why := difference(runs.clean, runs.corrupted, search.effect_test, sharing(runs.tokens)).why_none:
            return _Found(nothing, reason=why)
        acdc: Acdc | None = None
        if search.method == pb.CIRCUIT_METHOD_ACDC:
            may_fall = work.asked.metric.WhichOneof("kind") == "kl_divergence"
            acdc = Acdc(graph, runs, search.threshold, self._outbox, may_fall=may_fall)
            await acdc.run()
            scores = Scored(edges=acdc.scores)
        else:
            scores = await scored(work, runs, self._outbox)
        await self._tell(scores)
        least = 0.0 if search.effect_test.skip else least_effect(runs.clean, runs.corrupted, search.effect_test)
        if scores.strongest <= least:
            what = "node" if work.of_nodes else "edge"
            return _Found(
                nothing,
                scores,
                reason=f"no {what} has an effect above {least:.4g}: the strongest has {scores.strongest:.4g}",
            )
        ranking = self._ranking(scores, search)
        if acdc is None:
            circuit = await chosen(ranking, search, runs)
        else:
            circuit = acdc.kept if search.keep_dangling else graph.pruned(acdc.kept)
        if work.evaluation.skip:
            return _Found(circuit, scores)
        measuring = Evaluation(graph, runs, work.evaluation, work.asked.dataset, self._outbox)
        evaluation, losses = await measuring.of(circuit, ranking.at)
        return _Found(circuit, scores, evaluation, losses)

    def _ranking(self, scores: Scored, search: pb.CircuitSearch) -> Ranking:
        by_node = search.granularity == pb.CIRCUIT_GRANULARITY_NODE
        if by_node and scores.nodes is None:
            assert scores.edges is not None
            scores = Scored(scores.edges, of_nodes(self._work.asked.graph, scores.edges))
        return Ranking(self._work.asked.graph, scores, by_node, search.keep_dangling)

    async def _tell(self, scores: Scored | None) -> None:
        """Sends the scores, before they are made use of: an inference service that dies later does not take them."""
        for frame in self._arrays.frames(self._sent(scores)):
            await self._outbox.send(frame)

    def _sent(self, scores: Scored | None) -> dict[str, NDArray[np.float64]]:
        """The arrays; NaN where nothing was scored."""
        shape = self._work.asked.graph.mask.shape
        if self._work.of_nodes:
            known = None if scores is None else scores.nodes
            return {NODE_SCORE: np.full(shape[0], np.nan) if known is None else known}
        known = None if scores is None else scores.edges
        if known is None:
            return {EDGE_SCORE: np.full(shape, np.nan)}
        return {EDGE_SCORE: np.where(self._work.asked.graph.mask, known, np.nan)}

    def _result(self, found: _Found, search: pb.CircuitSearch) -> pb.DiscoveryResult:
        work, runs, graph = self._work, self._runs, self._work.asked.graph
        nodes = None
        if found.scored is not None and found.scored.nodes is not None:
            nodes = dict(zip(graph.senders, found.scored.nodes.tolist(), strict=True))
        circuit = Circuit.from_mask(
            graph,
            found.circuit,
            model=circuit_model(work.asked.model.info),
            name=work.name,
            edge_scores=None if found.scored is None else found.scored.edges,
            node_scores=nodes,
            provenance=pb.CircuitProvenance(
                source="discovery",
                search=search,
                metric=work.asked.metric,
                dataset=work.asked.dataset,
                created_at_ms=time.time_ns() // 1_000_000,
                versions={"neuroscope": __version__},
                call_count=work.asked.model.call_count,
                forward_passes=runs.forward_passes,
                elapsed_seconds=self._outbox.elapsed_s,
            ),
            evaluation=found.evaluation,
        ).message
        with_losses(circuit, found.losses or {})
        verdict = pb.DISCOVERY_VERDICT_NO_EFFECT if found.reason else pb.DISCOVERY_VERDICT_FOUND
        return pb.DiscoveryResult(circuit=circuit, verdict=verdict, reason=found.reason, token_count=runs.token_count)


class CircuitEvaluating:
    """Runs one evaluation.

    Args:
        asked: on which prompts.
        options: what is measured, with its defaults filled in.
        circuit: of the request.
    """

    def __init__(self, asked: Asked, options: pb.EvaluationOptions, circuit: pb.Circuit) -> None:
        self._asked, self._options, self._circuit = asked, options, circuit
        self._outbox = Outbox(pb.EvaluateCircuitResponse)
        self._runs = PairRuns(asked, self._outbox)

    def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then what is found, then the result."""
        return self._outbox.events(self._run)

    async def _run(self) -> None:
        asked, runs, graph = self._asked, self._runs, self._asked.graph
        await runs.begin()
        plan = planned(asked, runs, self._options)
        if other := weights_difference(self._circuit.model, plan.model):
            plan.warnings.append(f"the circuit was found on another checkpoint: {other}")
        await self._outbox.plan(plan)
        for baseline in runs.baselines():
            await self._outbox.partial(baseline)
        edges = [edge for edge in self._circuit.edges if edge.in_circuit]
        mask = graph.mask_of((edge.sender, edge.receiver) for edge in edges)
        scores = np.full(graph.mask.shape, np.nan)
        for edge in self._circuit.edges:
            if edge.HasField("score"):
                scores[graph.rows[edge.sender], graph.columns[edge.receiver]] = edge.score
        keeps = self._circuit.provenance.search.keep_dangling
        ranking = Ranking(graph, Scored(edges=scores), of_nodes=False, keeps_dangling=keeps)
        measuring = Evaluation(graph, runs, self._options, asked.dataset, self._outbox)
        found, losses = await measuring.of(mask, ranking.at)
        circuit = pb.Circuit()
        circuit.CopyFrom(self._circuit)
        circuit.evaluation.CopyFrom(found)
        with_losses(circuit, losses)
        await self._outbox.send(
            pb.EvaluateCircuitResponse(
                result=pb.EvaluationResult(
                    circuit=circuit,
                    token_count=runs.token_count,
                    call_count=asked.model.call_count,
                    elapsed_seconds=self._outbox.elapsed_s,
                )
            )
        )


def planned(asked: Asked, runs: PairRuns, options: pb.EvaluationOptions) -> pb.CircuitPlan:
    """What both say before they begin."""
    return pb.CircuitPlan(
        model=circuit_model(asked.model.info),
        senders=map(to_sender, asked.graph.senders),
        receivers=[
            experiment_pb2.EdgeReceiver(
                site=read.site, head=read.head if read.HasField("head") else None, sender_count=count
            )
            for read, count in zip(map(to_receiver, asked.graph.receivers), asked.graph.sender_counts, strict=True)
        ],
        edge_count=asked.graph.edge_count,
        evaluation=options,
        pairs=runs.tokens,
        warnings=runs.warnings,
    )


def with_losses(circuit: pb.Circuit, losses: dict[tuple[str, str], float]) -> None:
    """Writes what each edge is worth into a circuit."""
    for edge in circuit.edges:
        if (loss := losses.get((edge.sender, edge.receiver))) is not None and edge.in_circuit:
            edge.removal_effect = loss
