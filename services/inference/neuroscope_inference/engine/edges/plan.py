"""What changed edges carry: what senders write with the value in the place of their output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.attributions.graph import Graph
from neuroscope_inference.engine.edges.sets import Mask
from neuroscope_inference.engine.edit import Outcome
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.plan import Asked


@dataclass(frozen=True, slots=True)
class Written:
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

    graph: Graph
    changed: Mask
    edit: EditPlan
    row: int
    write: Callable[[EdgePlan, Mapping[Asked, mx.array]], Written]
    written: Written | None = field(default=None, init=False)
    """Once it has what it asks for."""

    @property
    def points(self) -> Sequence[Point]:
        """What receivers read."""
        return [self.graph.layout.states[point].point for point in self.graph.probed]

    @property
    def edits_logits(self) -> bool:
        """Never: the logits' input is."""
        return False

    @property
    def asks(self) -> set[Asked]:
        """What the value asks for, and the edited run's own outputs."""
        return self.edit.asks | {(self.row, point) for point in self.graph.compared}

    def take(self, given: Mapping[Asked, mx.array]) -> None:
        """Finds what is written."""
        self.written = self.write(self, given)

    def at(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], Outcome]:
        """Nothing row by row: a hook plan changes the edges of all rows together."""
        return {}, Outcome()


def written(plan: EdgePlan, given: Mapping[Asked, mx.array], length: int) -> Written:
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
    unedited = {point: given[plan.row, point] for point in graph.compared}
    plan.edit.take(given)
    edits, outcome = plan.edit.at(PositionRange(plan.row, 0, 0, length, length))
    differences: dict[PointIndex, mx.array] = {}
    for point, value in unedited.items():
        edited = value
        for edit in edits[point]:
            edited = edit.apply(edited)
        differences[point] = edited - value
    with memory.watched(0):
        together = graph.written(differences, slice(None))[0]
        mx.eval(together, outcome.arrays)
    outcome.check()
    return Written(unedited, together)
