"""A patch: one cell in one pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey, CellPlan
from neuroscope_inference.engine.sweeps.cells import Cells, EditExtent
from neuroscope_inference.engine.sweeps.pair import Pair


@dataclass(frozen=True, slots=True)
class Patch:
    """A cell in a pair; its edits are compiled when it runs.

    Args:
        number: in the request.
        pair: the pair.
        cells: the cells that it is one of.
        cell: its number among them.
        extent: what it can change.
        company: patches share a batch where these are equal.
    """

    number: int
    pair: Pair
    cells: Cells
    cell: int
    extent: EditExtent
    batch_key: bytes

    def plan(self) -> CellPlan:
        """The edits, which remember what they are given: new ones every time."""
        return self.cells.plan(self.cell, self.pair)

    def generation_plan(self, new_tokens: int, given: Mapping[ActivationKey, mx.array]) -> CellPlan | None:
        """The edits at generated tokens; None: there are none.

        Args:
            new_tokens: so many are drawn at most.
            given: activations (1, ...) by row and point.
        """
        return self.cells.generation_plan(self.cell, self.pair, new_tokens, given)
