"""Activations that edits take from other runs of their pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from neuroscope_inference.engine.edits import EditPlan, Outcome
from neuroscope_inference.engine.span import Span
from neuroscope_inference.engine.sweeps.pair import Pair
from neuroscope_inference.engine.tap import PointIndex


@dataclass(frozen=True, slots=True)
class Donors:
    """What the rows of a pair have at the points that its cells ask for.

    Args:
        pair: the pair.
        given: by row and point, the activation (1, ...) of the whole prompt.
    """

    pair: Pair
    given: Mapping[tuple[int, PointIndex], mx.array]

    def give(self, plan: EditPlan) -> None:
        """Hands the edits of a patch what they ask for."""
        lengths = self.pair.lengths
        for edit in plan.edits:
            for row in edit.donors:
                edit.give(self.given[row, edit.index], Span(row, 0, 0, lengths[row], lengths[row]), Outcome())
