"""Taps for rows with the edits of cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from neuroscope_inference.engine.edges.edge_hook_plan import EdgeHookPlan
from neuroscope_inference.engine.edges.plan import EdgePlan
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, RowEdit
from neuroscope_inference.engine.layout import Layout
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import CellPlan


def build_hook_plan(
    layout: Layout,
    points: Iterable[PointIndex],
    plans: Sequence[CellPlan],
    position_range: PositionRange,
    boundaries: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
) -> tuple[HookPlan, list[EditResult]]:
    """A hook plan for one forward pass of a batch, and what the rows' edits leave.

    Args:
        layout: of the model.
        points: what is read.
        plans: of the rows, in the order of the batch; all of one company.
        position_range: the positions of the pass.
        boundaries: where the rows enter, ascending; None: they run from their tokens on.
        places: positions that are read behind the last block, counted from the first one of the pass; None: all.
    """
    wanted = layout.capture_mask(points)
    of_edges = [plan for plan in plans if isinstance(plan, EdgePlan)]
    if of_edges:
        assert len(of_edges) == len(plans)
        entered = [0] * len(plans) if boundaries is None else boundaries
        return EdgeHookPlan(wanted, of_edges[0].graph, of_edges, position_range, entered, places), []
    edits: dict[PointIndex, list[RowEdit]] = {}
    outcomes: list[EditResult] = []
    for slot, plan in enumerate(plans):
        of_row, outcome = plan.edits_for(position_range)
        outcomes.append(outcome)
        for point, found in of_row.items():
            edits.setdefault(point, []).extend(replace(edit, slot=slot) for edit in found)
    return HookPlan(wanted, edits), outcomes
