"""One edit: an intervention at one point, resolved against a model, checked, and applied inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.errors import (
    DataConversionError,
    InvalidRequestError,
    MLXIntegrationError,
    UnavailableSiteError,
)
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine.arrays import new_handle
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.expression import (
    EditTarget,
    ExpressionCompiler,
    ResolveTensor,
    SelectedActivation,
    Value,
)
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.layout import PointState
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange, selected_positions
from neuroscope_inference.engine.selectors import select_heads, select_positions, select_rows

ATTENTION = ("attention_scores", "attention_pattern")


@dataclass(slots=True)
class EditResult:
    """What one row's edits left behind in one forward pass.

    Args:
        finite: for each edit that was applied, whether its numbers are finite, lazy.
        donated: activations kept for other rows, lazy.
        errors: what went wrong as the graph was built.
        sources: by point, what transcoders read there, (1, ...), lazy.
    """

    finite: list[tuple[Edit, mx.array]] = field(default_factory=list["tuple[Edit, mx.array]"])
    donated: list[mx.array] = field(default_factory=list[mx.array])
    errors: list[MLXIntegrationError] = field(default_factory=list[MLXIntegrationError])
    sources: dict[PointIndex, mx.array] = field(default_factory=dict["PointIndex", mx.array])

    @property
    def arrays(self) -> list[mx.array]:
        """All that is to be evaluated."""
        return [*(flag for _, flag in self.finite), *self.donated]

    def check(self) -> None:
        """Refuses what went wrong, once evaluated.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
        """
        for error in self.errors:
            raise error
        for edit, flag in self.finite:
            if not flag.item():
                raise DataConversionError(
                    f"{edit.name} makes numbers of {edit.point} that are not finite", field=edit.path
                )


class Edit:
    """One intervention at one point.

    Raises (from the constructor):
        UnavailableSiteError: the point cannot be read, or not be written.
        InvalidRequestError: a selector is out of range or selects nothing.
        DataConversionError: a tensor does not fit.
    """

    def __init__(
        self,
        model: LoadedModel,
        intervention: intervention_pb2.Intervention,
        point: Point,
        path: str,
        lengths: Sequence[int],
        max_new_tokens: int,
        resolve_tensor: ResolveTensor,
        units: Sequence[int] = (),
    ) -> None:
        state = require_writable(model, point, f"{path}.site.component")
        component, select = COMPONENTS[point.component], intervention.select
        self.path = path
        self.point = point
        self.index: PointIndex = model.layout.index[point]
        self.name = f"intervention {intervention.intervention_id or path!r}"
        self.position_axis = component.axes.index(tensor_pb2.AXIS_POSITION)
        self.head_axis = component.axes.index(tensor_pb2.AXIS_HEAD) if tensor_pb2.AXIS_HEAD in component.axes else -1
        self.heads = select_heads(select, self.head_axis, state, point, f"{path}.select.heads")
        self.selector: site_pb2.PositionSelector | None = select_positions(select, f"{path}.select.positions")
        stop = select.steps.stop if select.steps.HasField("stop") else 2**31
        if select.HasField("steps") and stop <= select.steps.start:
            raise InvalidRequestError("the selector names no step", field=f"{path}.select.steps")
        self.steps = range(select.steps.start, stop)
        self.rows = select_rows(select, len(lengths), f"{path}.select.rows")
        self.lengths = lengths
        self.units = units
        """Indices along the last axis; empty: all."""
        self.has_applied = False
        self._recorded: dict[int, list[tuple[list[int], mx.array]]] = {}
        """By row, what others ask for: ordinals of positions, and that part."""
        self.ordinals = {
            row: self._ordinals(row, max_new_tokens) for row in range(len(lengths)) if self._applies_to_row(row)
        }
        """By row, the ordinal of every position that it selects."""
        if not any(self.ordinals.values()):
            raise InvalidRequestError(
                f"the edit of {point} selects nothing: prompts of {', '.join(map(str, lengths))} tokens and at most "
                f"{max_new_tokens} generated ones have no such position at these steps",
                field=f"{path}.select",
            )
        frame = EditTarget(
            point=point,
            axes=component.axes,
            extents=state.axes_extents,
            heads=self.heads,
            position_counts={row: len(places) for row, places in self.ordinals.items()},
            last_position=max(max(places) for places in self.ordinals.values() if places),
            only_prompt=all(max(places) < lengths[row] for row, places in self.ordinals.items() if places),
            row_count=len(lengths),
            has_rotating_cache=model.has_rotating_cache,
        )
        compiler = ExpressionCompiler(frame, resolve_tensor, self._other_row, model.require_dictionary)
        self._value: Value = compiler.compile(intervention.value, f"{path}.value")
        self.reads_activation = compiler.reads_activation
        self.source: Dictionary | None = compiler.transcoder
        """The transcoder whose input the value needs."""
        if self.source is not None:
            require_writable(model, self.source.point, f"{path}.value")
        self.donors = frozenset(compiler.other_rows)
        for donor in self.donors:
            self._check_donor(donor, max_new_tokens)

    def applies_to(self, position_range: PositionRange) -> bool:
        """Whether something of a forward pass is selected, as far as rows and steps go."""
        return position_range.step in self.steps and self._applies_to_row(position_range.row)

    def apply(self, value: mx.array, position_range: PositionRange, outcome: EditResult) -> mx.array:
        """The activation (1, ...) of one row with the edit; itself where no position is selected."""
        chosen = self._positions(position_range)
        if not chosen:
            return value
        where = [position - position_range.first for position in chosen]
        part = self._select(value, where).astype(mx.float32)
        places = self.ordinals[position_range.row]
        source = self._transcoder_input(where, outcome)
        asked = SelectedActivation(part, position_range.row, chosen, [places[position] for position in chosen], source)
        edited = mx.broadcast_to(self._value(asked), part.shape)
        if self.units:
            edited = mx.where(self._unit_mask(part.shape[-1]), edited, part)
        outcome.finite.append((self, mx.isfinite(edited).all() | ~mx.isfinite(part).all()))
        self.has_applied = True
        return self._write(value, where, edited.astype(value.dtype))

    def _transcoder_input(self, where: list[int], outcome: EditResult) -> mx.array | None:
        """What a transcoder reads at the selected positions of this forward pass."""
        if self.source is None:
            return None
        value = outcome.sources.get(self.source.index)
        if value is None:
            raise UnavailableSiteError(
                f"this model computes {self.source.output} before {self.source.point}: no transcoder reads one and "
                "writes the other",
                field=self.path,
            )
        return mx.take(value, mx.array(where), axis=1)

    def record(self, value: mx.array, position_range: PositionRange, outcome: EditResult) -> mx.array:
        """Keeps what other rows ask for; the activation goes on as it is."""
        chosen = self._positions(position_range)
        if chosen:
            part = self._select(value, [position - position_range.first for position in chosen]).astype(mx.float32)
            ordinals = self._ordinals(position_range.row, 1)
            self._recorded.setdefault(position_range.row, []).append(
                ([ordinals[position] for position in chosen], part)
            )
            outcome.donated.append(part)
        return value

    def checkpoint(self, row: int) -> Callable[[], None]:
        """Brings what a row has given back to where it is now."""
        count = len(self._recorded.get(row, ()))

        def restore() -> None:
            del self._recorded.get(row, [])[count:]

        return restore

    def overlaps(self, other: Edit) -> bool:
        """Whether some element is edited by both."""
        if self.heads and other.heads and not set(self.heads) & set(other.heads):
            return False
        return any(
            self.ordinals[row].keys() & other.ordinals[row].keys() for row in self.ordinals.keys() & other.ordinals
        )

    def _unit_mask(self, width: int) -> mx.array:
        """Which entries of the last axis are edited, (width,)."""
        return (mx.arange(width)[:, None] == mx.array(list(self.units))).any(axis=-1)

    def _applies_to_row(self, row: int) -> bool:
        return self.rows is None or row in self.rows

    def _positions(self, position_range: PositionRange) -> list[int]:
        if self.selector is None:
            return list(range(position_range.first, position_range.end))
        return selected_positions(self.selector, position_range)

    def _ordinals(self, row: int, max_new_tokens: int) -> dict[int, int]:
        length = self.lengths[row]
        horizon = PositionRange(row, 0, 0, length + max(max_new_tokens - 1, 0), length)
        chosen = [p for p in self._positions(horizon) if max(p - length + 1, 0) in self.steps]
        places = {position: ordinal for ordinal, position in enumerate(chosen)}
        if len(places) < len(chosen):
            raise InvalidRequestError("a position is selected twice", field=f"{self.path}.select.positions")
        return places

    def _select(self, value: mx.array, where: list[int]) -> mx.array:
        if len(where) < value.shape[self.position_axis] or where != sorted(where):
            value = mx.take(value, mx.array(where), axis=self.position_axis)
        return mx.take(value, mx.array(self.heads), axis=self.head_axis) if self.heads else value

    def _write(self, value: mx.array, where: list[int], part: mx.array) -> mx.array:
        is_whole = len(where) == value.shape[self.position_axis] and where == sorted(where)
        if is_whole and not self.heads:
            return part
        at_positions: list[slice | mx.array] = [slice(None)] * value.ndim
        at_positions[self.position_axis] = mx.array(where)
        if self.heads:
            rest = value if is_whole else mx.take(value, mx.array(where), axis=self.position_axis)
            at_heads: list[slice | mx.array] = [slice(None)] * value.ndim
            at_heads[self.head_axis] = mx.array(self.heads)
            whole_heads = new_handle(rest)
            whole_heads[tuple(at_heads)] = part
            part = whole_heads
            if is_whole:
                return part
        written = new_handle(value)
        written[tuple(at_positions)] = part
        return written

    def _other_row(self, row: int, part: SelectedActivation) -> mx.array:
        """The part of another prompt that stands where this one stands among the selected positions."""
        pieces = self._recorded[row]
        given = mx.concatenate([piece for _, piece in pieces], axis=self.position_axis)
        place = {ordinal: index for index, ordinal in enumerate(o for ordinals, _ in pieces for o in ordinals)}
        return mx.take(given, mx.array([place[ordinal] for ordinal in part.ordinals]), axis=self.position_axis)

    def _check_donor(self, donor: int, max_new_tokens: int) -> None:
        count = len(self._ordinals(donor, max_new_tokens))
        for row, places in self.ordinals.items():
            if row == donor:
                raise InvalidRequestError(
                    f"prompt {row} is edited by its own activation; select the rows to edit",
                    field=f"{self.path}.select",
                )
            if len(places) != count:
                raise InvalidRequestError(
                    f"{len(places)} positions are selected in prompt {row} and {count} in prompt {donor}",
                    field=f"{self.path}.select.positions",
                )


def require_writable(model: LoadedModel, point: Point, field: str) -> PointState:
    """The state of a point that can be edited.

    Raises:
        UnavailableSiteError: it is not there, or can only be read.
    """
    state = model.require_point(point, field)
    if not state.is_writable or not mx.issubdtype(state.dtype, mx.floating):
        raise UnavailableSiteError(f"{point} of {model.description.model_id} can be read but not edited", field=field)
    return state
