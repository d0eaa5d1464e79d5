"""An evaluation of a circuit, from its request to its result."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np

from neuroscope.circuits.model_match import weights_difference
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.circuits.evaluator import CircuitEvaluator, write_removal_effects
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.pair_runs import PairRuns
from neuroscope_analysis.circuits.plan import plan_message
from neuroscope_analysis.circuits.ranking import Ranking
from neuroscope_analysis.circuits.request import EvaluationJob
from neuroscope_analysis.circuits.scoring import Scores


class CircuitEvaluation:
    """Runs one evaluation.

    Args:
        job: the validated request.
    """

    def __init__(self, job: EvaluationJob) -> None:
        self._task, self._options, self._circuit = job.task, job.options, job.circuit
        self._events = EventQueue(pb.EvaluateCircuitResponse)
        self._runs = PairRuns(job.task, self._events)

    def events(self) -> AsyncGenerator[Event, None]:
        """The plan, partial results and the result."""
        return self._events.events(self._run)

    async def _run(self) -> None:
        task, runs, graph = self._task, self._runs, self._task.graph
        await runs.run_unedited()
        plan = plan_message(task, runs, self._options)
        if other := weights_difference(self._circuit.model, plan.model):
            plan.warnings.append(f"the circuit was found on another checkpoint: {other}")
        await self._events.plan(plan)
        for baseline in runs.baseline_messages():
            await self._events.partial(baseline)
        edges = [edge for edge in self._circuit.edges if edge.in_circuit]
        mask = graph.mask_of((edge.sender, edge.receiver) for edge in edges)
        scores = np.full(graph.mask.shape, np.nan)
        for edge in self._circuit.edges:
            if edge.HasField("score"):
                scores[graph.rows[edge.sender], graph.columns[edge.receiver]] = edge.score
        keeps = self._circuit.provenance.search.keep_dangling
        ranking = Ranking(graph, Scores(edges=scores), of_nodes=False, keeps_dangling=keeps)
        measuring = CircuitEvaluator(graph, runs, self._options, task.dataset, self._events)
        found, losses = await measuring.evaluate(mask, ranking.of_size)
        circuit = pb.Circuit()
        circuit.CopyFrom(self._circuit)
        circuit.evaluation.CopyFrom(found)
        write_removal_effects(circuit, losses)
        await self._events.send(
            pb.EvaluateCircuitResponse(
                result=pb.EvaluationResult(
                    circuit=circuit,
                    token_count=runs.token_count,
                    call_count=task.model.call_count,
                    elapsed_seconds=self._events.elapsed_s,
                )
            )
        )
