"""The cells of a sweep: grids of one edit each, and single cells of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey, CellPlan
from neuroscope_inference.engine.sweeps.pair import CORRUPTED, FIRST_REFERENCE, Pair

ROW_EDITS = b""
"""The company of cells whose rows are edited one by one."""


@dataclass(frozen=True, slots=True)
class EditExtent:
    """What an edit can change at most.

    Args:
        boundary: the first block that can read it: 0 the first one, -1 before the embedding, the number of layers
            behind the last block.
        first: its first position.
        work: of a position besides that of the blocks, in blocks.
        position_bytes: memory of a position besides that of the blocks.
    """

    boundary: int
    first: int
    work: float = 0.0
    position_bytes: int = 0


class Cells(Protocol):
    """Some of a sweep's cells, by their number among them."""

    @property
    def count(self) -> int:
        """How many."""
        ...

    def shape(self, first_cell: int) -> pb.GridShape:
        """What the numbers stand for."""
        ...

    def check_supported(self) -> None:
        """Finds out by probes whether the model lends itself to these cells; on the engine's thread, before all else.

        Raises:
            UnavailableSiteError: it does not; says why.
        """
        ...

    def plan(self, number: int, pair: Pair) -> CellPlan:
        """The edits of a cell in a pair."""
        ...

    def generation_plan(
        self, number: int, pair: Pair, new_tokens: int, given: Mapping[ActivationKey, mx.array]
    ) -> CellPlan | None:
        """The edits of a cell at tokens that are generated; None: there are none.

        Args:
            number: of the cell.
            pair: the pair.
            new_tokens: so many are drawn at most.
            given: activations (1, ...) that cells ask for, by row and point.
        """
        ...

    def extent(self, number: int, pair: Pair) -> EditExtent:
        """What these edits can change."""
        ...

    def batch_key(self, number: int, pair: Pair) -> bytes:
        """Cells of a pair share a batch where these are equal."""
        ...

    def sample_plans(self, pair: Pair) -> Iterator[CellPlan]:
        """Edits that stand for those of all cells: whatever could be wrong with any is wrong with one of them.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError
        """
        ...


@dataclass(slots=True)
class SingleCells:
    """Cells one by one.

    Args:
        model: what is edited.
        cells: of the request.
        resolve: finds tensors.
    """

    model: LoadedModel
    cells: Sequence[pb.SweepCell]
    resolve: ResolveTensor

    @property
    def count(self) -> int:
        """How many."""
        return len(self.cells)

    def shape(self, first_cell: int) -> pb.GridShape:
        """One axis, with their names."""
        labels = [cell.name or f"cell {index}" for index, cell in enumerate(self.cells)]
        axis = pb.GridAxis(name="cell", indices=range(self.count), labels=labels)
        return pb.GridShape(first_cell=first_cell, axes=[axis])

    def check_supported(self) -> None:
        """Nothing: what can be edited is known since the model was loaded."""

    def plan(self, number: int, pair: Pair) -> EditPlan:
        """The edits of a cell."""
        path, edits = f"cells[{number}]", list[intervention_pb2.Intervention]()
        for intervention in self.cells[number].interventions:
            edit = intervention_pb2.Intervention()
            edit.CopyFrom(intervention)
            edit.select.rows.append(pair.edited_row)
            edits.append(edit)
        paths = [f"{path}.interventions[{index}]" for index in range(len(edits))]
        return EditPlan(self.model, edits, pair.lengths, 0, self.resolve, paths=paths)

    def generation_plan(
        self, number: int, pair: Pair, new_tokens: int, given: Mapping[ActivationKey, mx.array]
    ) -> EditPlan | None:
        """Those of the edits that select all positions, or all from one on, and take nothing of other runs."""
        edits: list[intervention_pb2.Intervention] = []
        for intervention in self.cells[number].interventions:
            if is_open_ended(intervention.select) and not uses_other_rows(intervention.value):
                edit = intervention_pb2.Intervention()
                edit.CopyFrom(intervention)
                edit.select.rows.append(pair.edited_row)
                edits.append(edit)
        return make_generation_plan(self.model, edits, pair, new_tokens, self.resolve)

    def batch_key(self, number: int, pair: Pair) -> bytes:
        """Any that are edited row by row."""
        return ROW_EDITS

    def extent(self, number: int, pair: Pair) -> EditExtent:
        """Of all edits together."""
        return edit_extent(self.plan(number, pair), pair, self.model.layout.num_layers)

    def sample_plans(self, pair: Pair) -> Iterator[EditPlan]:
        """Those of every cell, checked."""
        for number, cell in enumerate(self.cells):
            path = f"cells[{number}]"
            if not cell.interventions:
                raise InvalidRequestError("the cell edits nothing", field=f"{path}.interventions")
            for index, edit in enumerate(cell.interventions):
                check_no_rows_or_steps(edit, f"{path}.interventions[{index}]")
            plan = self.plan(number, pair)
            check_donors(plan, pair)
            yield plan


def check_no_rows_or_steps(edit: intervention_pb2.Intervention, path: str) -> None:
    """Refuses an edit that says of which run it is.

    Raises:
        InvalidRequestError: it selects rows or steps.
    """
    if edit.select.rows:
        raise InvalidRequestError("a sweep says itself which run is edited", field=f"{path}.select.rows")
    if edit.select.HasField("steps"):
        raise InvalidRequestError(
            "generation.edited_tokens says whether what a sweep generates is edited; there are no steps",
            field=f"{path}.select.steps",
        )


def make_generation_plan(
    model: LoadedModel,
    edits: Sequence[intervention_pb2.Intervention],
    pair: Pair,
    new_tokens: int,
    resolve: ResolveTensor,
    units: Sequence[int] = (),
) -> EditPlan | None:
    """The plan of edits from the first generated token on; None where none is read, or nothing is left to edit.

    What does not fit a single token has an entry for each position of the prompt, which has been edited with it.
    """
    if new_tokens < 2 or not edits:  # the last token that is drawn is not read
        return None
    later: list[intervention_pb2.Intervention] = []
    for edit in edits:
        found = intervention_pb2.Intervention()
        found.CopyFrom(edit)
        found.select.steps.start = 1
        later.append(found)
    try:
        return EditPlan(model, later, pair.lengths, new_tokens, resolve, units=units)
    except DataConversionError:
        return None


def is_open_ended(select: site_pb2.Selector) -> bool:
    """Whether a selector goes on with what is generated."""
    which = select.positions.WhichOneof("which") if select.HasField("positions") else None
    return which is None or (which == "range" and not select.positions.range.HasField("stop"))


def uses_other_rows(expression: intervention_pb2.Expression) -> bool:
    """Whether an expression takes activations of other runs, which are there for their prompts alone."""
    match expression.WhichOneof("node"):
        case "other_row":
            return True
        case "binary":
            return uses_other_rows(expression.binary.left) or uses_other_rows(expression.binary.right)
        case "project_out":
            return uses_other_rows(expression.project_out.operand)
        case "clamp":
            return uses_other_rows(expression.clamp.operand)
        case _:
            return False


def edit_extent(plan: EditPlan, pair: Pair, num_layers: int) -> EditExtent:
    """What the edits of a plan can change in a pair's edited run."""
    points = [edit.point for edit in plan.edits]
    points += [edit.source.point for edit in plan.edits if edit.source is not None]
    boundaries = [boundary_of(point.component, point.layer, num_layers) for point in points]
    firsts = [min(edit.ordinals[pair.edited_row]) for edit in plan.edits]
    return EditExtent(min(boundaries), min(firsts))


def boundary_of(component: str, layer: int | None, num_layers: int) -> int:
    """The first block that an edit of a point can reach."""
    if component == "embedding":
        return -1
    if layer is None:
        return num_layers
    return layer + 1 if component == "resid_post" else layer


def check_donors(plan: EditPlan, pair: Pair) -> None:
    """Refuses activations of runs that there are not, or whose positions are not those of the edited run.

    Raises:
        InvalidRequestError: names the pair, or the edit.
    """
    for edit in plan.edits:
        for donor in edit.donors:
            path = f"{edit.path}.value"
            if donor == CORRUPTED and pair.corrupted is None:
                raise InvalidRequestError(
                    f"pair {pair.index} has no corrupted prompt to take {edit.point} from",
                    field=f"pairs[{pair.index}].corrupted",
                )
            if donor >= pair.mean_row and not pair.references:
                raise InvalidRequestError("there are no reference prompts to take a mean of", field="references")
            if donor >= len(pair.lengths):
                raise InvalidRequestError(f"row {donor} is out of range", field=path)
            if donor == pair.mean_by_position_row:
                _check_references(pair)
            length, other = pair.length, pair.lengths[donor]
            if length != other and not _counts_from_end(edit.selector):
                reference = FIRST_REFERENCE <= donor < pair.mean_row
                raise InvalidRequestError(
                    f"pair {pair.index}: {pair.name(donor)} has {other} tokens and {pair.name(pair.edited_row)} "
                    f"{length}, so their positions do not pair; make them equally long, or count from the end",
                    field=f"references[{donor - FIRST_REFERENCE}]" if reference else f"pairs[{pair.index}]",
                )


def _check_references(pair: Pair) -> None:
    for index, prompt in enumerate(pair.references):
        if len(prompt) != pair.length:
            raise InvalidRequestError(
                f"reference {index} has {len(prompt)} tokens and {pair.name(pair.edited_row)} of pair {pair.index} "
                f"{pair.length}: a mean at each position needs equal lengths",
                field=f"references[{index}]",
            )


def _counts_from_end(selector: site_pb2.PositionSelector | None) -> bool:
    if selector is None:
        return False
    if selector.WhichOneof("which") == "list":
        return all(position < 0 for position in selector.list.positions)
    return selector.range.start < 0 and (not selector.range.HasField("stop") or selector.range.stop < 0)
