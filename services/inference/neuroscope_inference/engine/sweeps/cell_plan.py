"""What sweeps know of the edits of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.position_range import PositionRange

ActivationKey = tuple[int, PointIndex]
"""A row of a pair, and a point."""


class CellPlan(Protocol):
    """The edits of a cell in a pair: an `EditPlan`, or what is made of one."""

    @property
    def points(self) -> Sequence[Point]:
        """What is edited."""
        ...

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited."""
        ...

    @property
    def required_activations(self) -> set[ActivationKey]:
        """Rows and points of which activations are wanted."""
        ...

    def provide(self, given: Mapping[ActivationKey, mx.array]) -> None:
        """Gets what it asks for: activations (1, ...) of whole prompts."""
        ...

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """What is applied in one forward pass of the edited row, in order, and where it leaves its outcome."""
        ...
