"""The plan of a search or an evaluation."""

from __future__ import annotations

from neuroscope.circuits.sources import circuit_model
from neuroscope.experiments.edges import to_receiver, to_sender
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from neuroscope_analysis.circuits.pair_runs import PairRuns
from neuroscope_analysis.circuits.request import CircuitTask


def plan_message(task: CircuitTask, runs: PairRuns, options: pb.EvaluationOptions) -> pb.CircuitPlan:
    """The message that both send first."""
    return pb.CircuitPlan(
        model=circuit_model(task.model.info),
        senders=map(to_sender, task.graph.senders),
        receivers=[
            experiment_pb2.EdgeReceiver(
                site=read.site, head=read.head if read.HasField("head") else None, sender_count=count
            )
            for read, count in zip(map(to_receiver, task.graph.receivers), task.graph.sender_counts, strict=True)
        ],
        edge_count=task.graph.edge_count,
        evaluation=options,
        pairs=runs.tokens,
        warnings=runs.warnings,
    )
