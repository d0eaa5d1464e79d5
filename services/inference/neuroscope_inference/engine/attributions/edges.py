"""Scores of edges: EAP (Syed et al. 2023, arXiv:2310.10348) and EAP-IG (Hanna et al. 2024, arXiv:2403.17806).

An edge's score is the difference of what its sender writes, times the gradient at its receiver's input; that is summed
over positions, and averaged over inputs on the line from the edited run to the other one. All of one block's receivers
meet all senders below in one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.errors import UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.attributions.gradients import PassResult
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.attributions.nodes import INPUT
from neuroscope_inference.engine.attributions.support import why_no_edges
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.model import LoadedModel

_DEFAULT_STEPS = 5


@dataclass(frozen=True, slots=True)
class EdgeAttribution:
    """Scores of all edges of a model.

    Args:
        model: the model.
        graph: its edges.
        steps: inputs that gradients are taken at.
        budget_bytes: memory of what senders write at the positions that are taken together.
    """

    model: LoadedModel
    graph: EdgeGraph
    steps: int
    budget_bytes: int

    @property
    def gradient_points(self) -> Sequence[PointIndex]:
        """What receivers read."""
        return self.graph.receiver_points

    @property
    def activation_points(self) -> Sequence[PointIndex]:
        """What senders write."""
        return self.graph.sender_points

    @property
    def extra_points(self) -> Sequence[PointIndex]:
        """The streams that norms read."""
        return self.graph.streams

    @property
    def interpolation_point(self) -> PointIndex:
        """What enters the first block."""
        return self.model.layout.index[INPUT]

    @property
    def needs_other_run(self) -> bool:
        """Senders are compared."""
        return True

    def fractions(self) -> Sequence[float]:
        """Of equal intervals the beginnings, as in the paper."""
        return [step / self.steps for step in range(self.steps)]

    def describe_tensors(self, plan: pb.AttributionPlan) -> None:
        """One tensor, and its axes."""
        graph = self.graph
        plan.tensors.tensors.append(
            tensor_pb2.TensorSpec(
                dtype=tensor_pb2.DATA_TYPE_FLOAT32,
                axes=[tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_SENDER, tensor_pb2.AXIS_RECEIVER],
                shape=[1, len(graph.senders), len(graph.receivers)],
            )
        )
        plan.senders.extend(graph.senders)
        plan.receivers.extend(graph.receivers)

    def start(self, other: PassResult | None) -> EdgeScores:
        """The scores of a batch."""
        assert other is not None
        return EdgeScores(self, other.activations)


def parse_edges(model: LoadedModel, message: pb.EdgeAttribution, budget_bytes: int) -> EdgeAttribution:
    """The scores of a request; on the engine's thread.

    Raises:
        UnavailableSiteError: the model's edges do not add up; says why.
    """
    if reason := why_no_edges(model):
        raise UnavailableSiteError(
            f"edges of {model.description.model_id} have no scores: {reason}; nodes may have", field="edges"
        )
    return EdgeAttribution(model, EdgeGraph(model.layout), message.steps or _DEFAULT_STEPS, budget_bytes)


@dataclass(slots=True)
class EdgeScores:
    """Scores of one batch.

    Args:
        kind: what is scored.
        other: activations of the other run.
    """

    method: EdgeAttribution
    other: Mapping[PointIndex, mx.array]
    _differences: dict[PointIndex, mx.array] = field(default_factory=dict[PointIndex, mx.array])
    _scores: mx.array | None = None
    _contributions: mx.array | None = None
    """What senders write, where that of all positions is taken together."""

    def add(self, passed: PassResult, edited: PassResult) -> None:
        """Contracts the gradients at receivers with what senders write, some positions at a time."""
        graph = self.method.graph
        if not self._differences:
            self._differences = {point: self.other[point] - edited.activations[point] for point in graph.sender_points}
        rows, length, width = passed.activations[graph.streams[0]].shape
        chunk = max(1, self.method.budget_bytes // (4 * rows * width * len(graph.senders)))
        for first in range(0, length, chunk):
            with memory.limited(0):
                found = self._contract(passed, slice(first, first + chunk), keeps=chunk >= length)
                self._scores = found if self._scores is None else self._scores + found
                mx.eval(self._scores)

    def finish(self) -> Sequence[mx.array]:
        """(rows, senders, receivers)"""
        assert self._scores is not None
        scores = self._scores / self.method.steps
        mx.eval(scores)
        return [scores]

    def _contract(self, passed: PassResult, positions: slice, *, keeps: bool) -> mx.array:
        graph = self.method.graph
        written = self._contributions
        if written is None:
            written = graph.contributions(self._differences, positions)
            written = written.reshape(*written.shape[:2], -1)  # (rows, senders, positions * d_model)
            mx.eval(written)
            self._contributions = written if keeps else None
        columns: list[mx.array] = []
        for reading in graph.receiver_groups:
            gradients = reading.gradients(passed.activations, passed.gradients, positions)
            gradients = gradients.reshape(*gradients.shape[:2], -1)  # (rows, receivers, positions * d_model)
            met = written[:, : reading.sender_count] @ gradients.swapaxes(1, 2)
            mx.eval(met)  # the gradients of one block's receivers at a time
            columns.append(mx.pad(met, [(0, 0), (0, len(graph.senders) - reading.sender_count), (0, 0)]))
        return mx.concatenate(columns, axis=2)
