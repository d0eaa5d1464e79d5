"""The edits of a request: interventions resolved against a model, checked, and applied inside the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.errors import (
    DataConversionError,
    HookNeverFiredError,
    InvalidRequestError,
    MLXIntegrationError,
    UnavailableSiteError,
)
from neuroscope.sites import COMPONENTS, Point, resolve
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from neuroscope_inference.engine.arrays import new_handle
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.expression import Compiler, Frame, Part, Resolve, Value
from neuroscope_inference.engine.layout import PointState
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.selectors import check_is_run, heads_of, positions_of, rows_of
from neuroscope_inference.engine.span import Span, selected
from neuroscope_inference.engine.tap import PointIndex, RowEdit

ATTENTION = ("attention_scores", "attention_pattern")


@dataclass(slots=True)
class Outcome:
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
        resolve_tensor: Resolve,
        units: Sequence[int] = (),
    ) -> None:
        state = _writable(model, point, f"{path}.site.component")
        component, select = COMPONENTS[point.component], intervention.select
        self.path = path
        self.point = point
        self.index: PointIndex = model.layout.index[point]
        self.name = f"intervention {intervention.intervention_id or path!r}"
        self.position_axis = component.axes.index(tensor_pb2.AXIS_POSITION)
        self.head_axis = component.axes.index(tensor_pb2.AXIS_HEAD) if tensor_pb2.AXIS_HEAD in component.axes else -1
        self.heads = heads_of(select, self.head_axis, state, point, f"{path}.select.heads")
        self.selector: site_pb2.PositionSelector | None = positions_of(select, f"{path}.select.positions")
        stop = select.steps.stop if select.steps.HasField("stop") else 2**31
        if select.HasField("steps") and stop <= select.steps.start:
            raise InvalidRequestError("the selector names no step", field=f"{path}.select.steps")
        self.steps = range(select.steps.start, stop)
        self.rows = rows_of(select, len(lengths), f"{path}.select.rows")
        self.lengths = lengths
        self.units = units
        """Indices along the last axis; empty: all."""
        self.has_applied = False
        self._given: dict[int, list[tuple[list[int], mx.array]]] = {}
        """By row, what others ask for: ordinals of positions, and that part."""
        self.places = {row: self._places(row, max_new_tokens) for row in range(len(lengths)) if self._is_of(row)}
        """By row, the ordinal of every position that it selects."""
        if not any(self.places.values()):
            raise InvalidRequestError(
                f"the edit of {point} selects nothing: prompts of {', '.join(map(str, lengths))} tokens and at most "
                f"{max_new_tokens} generated ones have no such position at these steps",
                field=f"{path}.select",
            )
        frame = Frame(
            point=point,
            axes=component.axes,
            extents=state.axes_extents,
            heads=self.heads,
            position_counts={row: len(places) for row, places in self.places.items()},
            last_position=max(max(places) for places in self.places.values() if places),
            only_prompt=all(max(places) < lengths[row] for row, places in self.places.items() if places),
            row_count=len(lengths),
            has_rings=model.rotates,
        )
        compiler = Compiler(frame, resolve_tensor, self._donated, model.dictionary)
        self._value: Value = compiler.compile(intervention.value, f"{path}.value")
        self.reads_activation = compiler.reads_activation
        self.source: Dictionary | None = compiler.transcoder
        """The transcoder whose input the value needs."""
        if self.source is not None:
            _writable(model, self.source.point, f"{path}.value")
        self.donors = frozenset(compiler.other_rows)
        for donor in self.donors:
            self._check_donor(donor, max_new_tokens)

    def fires(self, span: Span) -> bool:
        """Whether something of a forward pass is selected, as far as rows and steps go."""
        return span.step in self.steps and self._is_of(span.row)

    def apply(self, value: mx.array, span: Span, outcome: Outcome) -> mx.array:
        """The activation (1, ...) of one row with the edit; itself where no position is selected."""
        chosen = self._chosen(span)
        if not chosen:
            return value
        where = [position - span.first for position in chosen]
        part = self._part(value, where).astype(mx.float32)
        places = self.places[span.row]
        source = self._source(where, outcome)
        asked = Part(part, span.row, chosen, [places[position] for position in chosen], source)
        edited = mx.broadcast_to(self._value(asked), part.shape)
        if self.units:
            edited = mx.where(self._is_chosen(part.shape[-1]), edited, part)
        outcome.finite.append((self, mx.isfinite(edited).all() | ~mx.isfinite(part).all()))
        self.has_applied = True
        return self._written(value, where, edited.astype(value.dtype))

    def _source(self, where: list[int], outcome: Outcome) -> mx.array | None:
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

    def give(self, value: mx.array, span: Span, outcome: Outcome) -> mx.array:
        """Keeps what other rows ask for; the activation goes on as it is."""
        chosen = self._chosen(span)
        if chosen:
            part = self._part(value, [position - span.first for position in chosen]).astype(mx.float32)
            ordinals = self._places(span.row, 1)
            self._given.setdefault(span.row, []).append(([ordinals[position] for position in chosen], part))
            outcome.donated.append(part)
        return value

    def checkpoint(self, row: int) -> Callable[[], None]:
        """Brings what a row has given back to where it is now."""
        count = len(self._given.get(row, ()))

        def restore() -> None:
            del self._given.get(row, [])[count:]

        return restore

    def overlaps(self, other: Edit) -> bool:
        """Whether some element is edited by both."""
        if self.heads and other.heads and not set(self.heads) & set(other.heads):
            return False
        return any(self.places[row].keys() & other.places[row].keys() for row in self.places.keys() & other.places)

    def _is_chosen(self, width: int) -> mx.array:
        """Which entries of the last axis are edited, (width,)."""
        return (mx.arange(width)[:, None] == mx.array(list(self.units))).any(axis=-1)

    def _is_of(self, row: int) -> bool:
        return self.rows is None or row in self.rows

    def _chosen(self, span: Span) -> list[int]:
        if self.selector is None:
            return list(range(span.first, span.end))
        return selected(self.selector, span)

    def _places(self, row: int, max_new_tokens: int) -> dict[int, int]:
        length = self.lengths[row]
        horizon = Span(row, 0, 0, length + max(max_new_tokens - 1, 0), length)
        chosen = [p for p in self._chosen(horizon) if max(p - length + 1, 0) in self.steps]
        places = {position: ordinal for ordinal, position in enumerate(chosen)}
        if len(places) < len(chosen):
            raise InvalidRequestError("a position is selected twice", field=f"{self.path}.select.positions")
        return places

    def _part(self, value: mx.array, where: list[int]) -> mx.array:
        if len(where) < value.shape[self.position_axis] or where != sorted(where):
            value = mx.take(value, mx.array(where), axis=self.position_axis)
        return mx.take(value, mx.array(self.heads), axis=self.head_axis) if self.heads else value

    def _written(self, value: mx.array, where: list[int], part: mx.array) -> mx.array:
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

    def _donated(self, row: int, part: Part) -> mx.array:
        """The part of another prompt that stands where this one stands among the selected positions."""
        pieces = self._given[row]
        given = mx.concatenate([piece for _, piece in pieces], axis=self.position_axis)
        place = {ordinal: index for index, ordinal in enumerate(o for ordinals, _ in pieces for o in ordinals)}
        return mx.take(given, mx.array([place[ordinal] for ordinal in part.ordinals]), axis=self.position_axis)

    def _check_donor(self, donor: int, max_new_tokens: int) -> None:
        count = len(self._places(donor, max_new_tokens))
        for row, places in self.places.items():
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
        resolve_tensor: Resolve,
        stop_before: int | None = None,
        *,
        paths: Sequence[str] | None = None,
        units: Sequence[int] = (),
    ) -> None:
        paths = [f"interventions[{index}]" for index in range(len(interventions))] if paths is None else paths
        self.edits = [
            Edit(model, intervention, point, path, lengths, max_new_tokens, resolve_tensor, units)
            for intervention, path in zip(interventions, paths, strict=True)
            for point in _points(model, intervention, path)
        ]
        self.row_order = list(range(len(lengths)))
        """Rows that give activations come before those that ask for them."""
        for edit in self.edits:
            check_is_run(edit.point, stop_before, edit.path)
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
    def asks(self) -> set[tuple[int, PointIndex]]:
        """Rows and points of which activations are wanted."""
        return {(row, edit.index) for edit in self.edits for row in edit.donors}

    def take(self, given: Mapping[tuple[int, PointIndex], mx.array]) -> None:
        """Hands edits what they ask for, by row and point (1, ...), where those rows do not run along."""
        for edit in self.edits:
            for row in edit.donors:
                length = edit.lengths[row]
                edit.give(given[row, edit.index], Span(row, 0, 0, length, length), Outcome())

    def at(self, span: Span) -> tuple[dict[PointIndex, list[RowEdit]], Outcome]:
        """What is applied in one forward pass of one row, in order, and where it leaves its outcome."""
        outcome = Outcome()
        found: dict[PointIndex, list[RowEdit]] = {}
        for edit in self.edits:
            if edit.fires(span):
                columns = span.end if edit.point.component in ATTENTION else None
                found.setdefault(edit.index, []).append(RowEdit(_guarded(edit, span, outcome), columns))
        for edit in self.edits:
            if span.row in edit.donors and span.step == 0:
                found.setdefault(edit.index, []).append(RowEdit(_giving(edit, span, outcome)))
        for source in {edit.source.index for edit in self.edits if edit.source is not None and edit.fires(span)}:
            found.setdefault(source, []).append(RowEdit(_keeping(source, outcome)))
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
            for row in edit.places:
                wants[row] |= edit.donors
        order: list[int] = []
        while len(order) < len(wants):
            ready = [row for row, donors in wants.items() if row not in order and donors <= set(order)]
            if not ready:
                edit = next(edit for edit in self.edits if edit.donors)
                raise InvalidRequestError("prompts ask for each other's activations in a circle", field=edit.path)
            order += ready
        self.row_order = order


def _points(model: LoadedModel, intervention: intervention_pb2.Intervention, path: str) -> list[Point]:
    """Where an intervention is; one of features that does not say it, where their dictionary writes."""
    value = intervention.value
    if value.HasField("features") and not intervention.HasField("site"):
        return [model.dictionary(value.features.dictionary_id, f"{path}.value.features.dictionary_id").output]
    return resolve(intervention.site, model.layout.num_layers, field=f"{path}.site")


def _writable(model: LoadedModel, point: Point, field: str) -> PointState:
    """The state of a point that can be edited.

    Raises:
        UnavailableSiteError: it is not there, or can only be read.
    """
    state = model.available(point, field)
    if not state.is_writable or not mx.issubdtype(state.dtype, mx.floating):
        raise UnavailableSiteError(f"{point} of {model.description.model_id} can be read but not edited", field=field)
    return state


def _guarded(edit: Edit, span: Span, outcome: Outcome) -> Callable[[mx.array], mx.array]:
    """An edit that fails leaves its row to fail, and not the batch that the row is in."""

    def apply(value: mx.array) -> mx.array:
        try:
            return edit.apply(value, span, outcome)
        except MLXIntegrationError as error:
            outcome.errors.append(error)
        except ValueError as error:  # MLX: shapes that do not fit
            outcome.errors.append(DataConversionError(f"{edit.name} of {edit.point}: {error}", field=edit.path))
        return value

    return apply


def _keeping(source: PointIndex, outcome: Outcome) -> Callable[[mx.array], mx.array]:
    def keep(value: mx.array) -> mx.array:
        outcome.sources[source] = value
        return value

    return keep


def _giving(edit: Edit, span: Span, outcome: Outcome) -> Callable[[mx.array], mx.array]:
    return lambda value: edit.give(value, span, outcome)
