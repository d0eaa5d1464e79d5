"""The edits of a request: in order, without contradictions, applied row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import mlx.core as mx

from neuroscope.errors import (
    DataConversionError,
    HookNeverFiredError,
    InvalidRequestError,
    MLXIntegrationError,
)
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary.sites import Point, resolve
from neuroscope_inference.engine.edit import ATTENTION, Edit, EditResult
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.selectors import check_computed


class EditPlan:
    """All edits of a request.

    Args:
        model: what is edited.
        interventions: the edits, in the order in which they apply.
        lengths: of the prompts, in tokens.
        max_new_tokens: of a generation.
        resolve_tensor: finds tensors.
        stop_before: the layer before which the forward pass ends.
        paths: where the edits stand in the request; by default in its `interventions`.
        units: indices along the last axis that are edited; empty: all.

    Raises (from the constructor):
        what Edit raises, and InvalidRequestError where two edits of one place contradict each other, or rows ask for
        each other's activations in a circle.
    """

    def __init__(
        self,
        model: LoadedModel,
        interventions: Sequence[intervention_pb2.Intervention],
        lengths: Sequence[int],
        max_new_tokens: int,
        resolve_tensor: ResolveTensor,
        stop_before: int | None = None,
        *,
        paths: Sequence[str] | None = None,
        units: Sequence[int] = (),
    ) -> None:
        paths = [f"interventions[{index}]" for index in range(len(interventions))] if paths is None else paths
        self.edits = [
            Edit(model, intervention, point, path, lengths, max_new_tokens, resolve_tensor, units)
            for intervention, path in zip(interventions, paths, strict=True)
            for point in _resolve_points(model, intervention, path)
        ]
        self.row_order = list(range(len(lengths)))
        """Rows that give activations come before those that ask for them."""
        for edit in self.edits:
            check_computed(edit.point, stop_before, edit.path)
        self._check_conflicts()
        self._order_rows()

    @property
    def edits_attention(self) -> bool:
        """Whether scores or patterns are edited: attention is then computed step by step, not by its kernel."""
        return any(edit.point.component in ATTENTION for edit in self.edits)

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited."""
        return any(edit.point.component == "logits" for edit in self.edits)

    @property
    def points(self) -> list[Point]:
        """What is edited."""
        return [edit.point for edit in self.edits]

    @property
    def required_activations(self) -> set[tuple[int, PointIndex]]:
        """Rows and points of which activations are wanted."""
        return {(row, edit.index) for edit in self.edits for row in edit.donors}

    def provide(self, given: Mapping[tuple[int, PointIndex], mx.array]) -> None:
        """Hands edits what they ask for, by row and point (1, ...), where those rows do not run along."""
        for edit in self.edits:
            for row in edit.donors:
                length = edit.lengths[row]
                edit.record(given[row, edit.index], PositionRange(row, 0, 0, length, length), EditResult())

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """What is applied in one forward pass of one row, in order, and where it leaves its outcome."""
        outcome = EditResult()
        found: dict[PointIndex, list[RowEdit]] = {}
        for edit in self.edits:
            if edit.applies_to(position_range):
                columns = position_range.end if edit.point.component in ATTENTION else None
                found.setdefault(edit.index, []).append(RowEdit(_catch_errors(edit, position_range, outcome), columns))
        for edit in self.edits:
            if position_range.row in edit.donors and position_range.step == 0:
                found.setdefault(edit.index, []).append(RowEdit(_record_activation(edit, position_range, outcome)))
        for source in {
            edit.source.index for edit in self.edits if edit.source is not None and edit.applies_to(position_range)
        }:
            found.setdefault(source, []).append(RowEdit(_record_transcoder_input(source, outcome)))
        return found, outcome

    def checkpoints(self, row: int) -> Iterator[Callable[[], None]]:
        """What brings a row back to where it is now, should a chunk have to be computed again."""
        return (edit.checkpoint(row) for edit in self.edits)

    def check_applied(self) -> None:
        """Refuses a run in which an edit had no effect.

        Raises:
            HookNeverFiredError: names the edit.
        """
        for edit in self.edits:
            if not edit.has_applied:
                raise HookNeverFiredError(
                    f"{edit.name} of {edit.point} was never applied: none of the steps and positions that it selects "
                    "was run",
                    field=edit.path,
                )

    def _check_conflicts(self) -> None:
        for index, later in enumerate(self.edits):
            if later.reads_activation:
                continue
            for earlier in self.edits[:index]:
                if earlier.index == later.index and earlier.overlaps(later):
                    raise InvalidRequestError(
                        f"{later.name} overwrites {later.point}, which {earlier.name} edits as well", field=later.path
                    )

    def _order_rows(self) -> None:
        wants: dict[int, set[int]] = {row: set() for row in self.row_order}
        for edit in self.edits:
            for row in edit.ordinals:
                wants[row] |= edit.donors
        order: list[int] = []
        while len(order) < len(wants):
            ready = [row for row, donors in wants.items() if row not in order and donors <= set(order)]
            if not ready:
                edit = next(edit for edit in self.edits if edit.donors)
                raise InvalidRequestError("prompts ask for each other's activations in a circle", field=edit.path)
            order += ready
        self.row_order = order


def _resolve_points(model: LoadedModel, intervention: intervention_pb2.Intervention, path: str) -> list[Point]:
    """Where an intervention is; one of features that does not say it, where their dictionary writes."""
    value = intervention.value
    if value.HasField("features") and not intervention.HasField("site"):
        return [model.require_dictionary(value.features.dictionary_id, f"{path}.value.features.dictionary_id").output]
    return resolve(intervention.site, model.layout.num_layers, field=f"{path}.site")


def _catch_errors(edit: Edit, position_range: PositionRange, outcome: EditResult) -> Callable[[mx.array], mx.array]:
    """An edit that fails leaves its row to fail, and not the batch that the row is in."""

    def apply(value: mx.array) -> mx.array:
        try:
            return edit.apply(value, position_range, outcome)
        except MLXIntegrationError as error:
            outcome.errors.append(error)
        except ValueError as error:  # MLX: shapes that do not fit
            outcome.errors.append(DataConversionError(f"{edit.name} of {edit.point}: {error}", field=edit.path))
        return value

    return apply


def _record_transcoder_input(source: PointIndex, outcome: EditResult) -> Callable[[mx.array], mx.array]:
    def keep(value: mx.array) -> mx.array:
        outcome.sources[source] = value
        return value

    return keep


def _record_activation(
    edit: Edit, position_range: PositionRange, outcome: EditResult
) -> Callable[[mx.array], mx.array]:
    return lambda value: edit.record(value, position_range, outcome)
