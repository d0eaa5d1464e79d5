"""What sweeps know of the edits of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.edit import Outcome
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.position_range import PositionRange

Asked = tuple[int, PointIndex]
"""A row of a pair, and a point."""


class Plan(Protocol):
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
    def asks(self) -> set[Asked]:
        """Rows and points of which activations are wanted."""
        ...

    def take(self, given: Mapping[Asked, mx.array]) -> None:
        """Gets what it asks for: activations (1, ...) of whole prompts."""
        ...

    def at(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], Outcome]:
        """What is applied in one forward pass of the edited row, in order, and where it leaves its outcome."""
        ...
