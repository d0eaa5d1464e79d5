"""What changed edges carry: what senders write with the value in the place of their output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.edges.sets import Mask
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey


@dataclass(frozen=True, slots=True)
class SenderOutputs:
    """What senders write in a pair, at all positions of the prompt.

    Args:
        unedited: their outputs in the edited run, by point (1, positions, ...).
        differences: what they write with the value less what they write in the edited run, float32 (senders, positions,
            d_model).
    """

    unedited: Mapping[PointIndex, mx.array]
    differences: mx.array


@dataclass(slots=True)
class EdgePlan:
    """The changed edges of a cell in a pair.

    Args:
        graph: the edges.
        changed: which are.
        edit: puts the value in the place of every sender's output.
        row: of the edited run.
        write: makes, or finds, what is written.
    """

    graph: EdgeGraph
    changed: Mask
    edit: EditPlan
    row: int
    get_outputs: Callable[[EdgePlan, Mapping[ActivationKey, mx.array]], SenderOutputs]
    outputs: SenderOutputs | None = field(default=None, init=False)
    """Once it has what it asks for."""

    @property
    def points(self) -> Sequence[Point]:
        """What receivers read."""
        return [self.graph.layout.states[point].point for point in self.graph.receiver_points]

    @property
    def edits_logits(self) -> bool:
        """Never: the logits' input is."""
        return False

    @property
    def required_activations(self) -> set[ActivationKey]:
        """What the value asks for, and the edited run's own outputs."""
        return self.edit.required_activations | {(self.row, point) for point in self.graph.sender_points}

    def provide(self, given: Mapping[ActivationKey, mx.array]) -> None:
        """Finds what is written."""
        self.outputs = self.get_outputs(self, given)

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """Nothing row by row: a hook plan changes the edges of all rows together."""
        return {}, EditResult()


def compute_outputs(plan: EdgePlan, given: Mapping[ActivationKey, mx.array], length: int) -> SenderOutputs:
    """What the senders of a plan write, evaluated.

    Args:
        plan: the plan.
        given: by row and point, activations (1, ...) that it asks for.
        length: of the edited run.

    Raises:
        DataConversionError: a value is not finite.
        OutOfMemoryError: it takes more memory than there is.
    """
    graph = plan.graph
    unedited = {point: given[plan.row, point] for point in graph.sender_points}
    plan.edit.provide(given)
    edits, outcome = plan.edit.edits_for(PositionRange(plan.row, 0, 0, length, length))
    differences: dict[PointIndex, mx.array] = {}
    for point, value in unedited.items():
        edited = value
        for edit in edits[point]:
            edited = edit.apply(edited)
        differences[point] = edited - value
    with memory.limited(0):
        together = graph.contributions(differences, slice(None))[0]
        mx.eval(together, outcome.arrays)
    outcome.check()
    return SenderOutputs(unedited, together)
