"""A grid of cells: layers x heads x positions x units of one component, or features of a dictionary; an edit each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.sites import COMPONENTS, Component, Point
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import Resolve
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cells import Extent, boundary_of, check_donors
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, FIRST_REFERENCE, Pair
from neuroscope_inference.engine.sweeps.points import in_range, points_of

Choice = Sequence[int]
"""Indices that one cell selects together; empty: all."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the cells choose along one axis.

    Args:
        name: of the axis.
        choices: one for each cell along it.
        is_axis: whether cells differ in it.
    """

    name: str
    choices: Sequence[Choice]
    is_axis: bool

    def message(self) -> pb.GridAxis:
        """The axis as it is sent."""
        return pb.GridAxis(name=self.name, indices=[choice[0] for choice in self.choices])


class Grid:
    """One grid of a request.

    Args:
        model: what is edited.
        message: the grid.
        path: of the grid in the request.
        first_cell: number of its first cell in the request.
        pairs: which it is run on.
        resolve: finds tensors.

    Raises (from the constructor):
        UnknownSiteError, UnavailableSiteError: a layer does not have the component.
        InvalidRequestError: an index is out of range, or the value is missing.
    """

    def __init__(
        self,
        model: LoadedModel,
        message: pb.SweepGrid,
        path: str,
        first_cell: int,
        pairs: Sequence[Pair],
        find: Resolve,
    ) -> None:
        self._model, self._value, self._path, self._resolve = model, message.value, path, find
        self._first_cell = first_cell
        self._dictionary = self._asked_dictionary(message)
        self._points = (
            points_of(model, message.site, message.layers, path)
            if self._dictionary is None
            else [self._dictionary.output]
        )
        self._component: Component = COMPONENTS[self._points[0].component]
        layers = [[-1 if point.layer is None else point.layer] for point in self._points]
        self._axes = (
            Choices("layer", layers, self._component.has_layer),
            self._heads(message),
            self._positions(message, pairs),
            self._units(message),
            self._features(message),
        )
        self._check_value()

    @property
    def count(self) -> int:
        """How many cells."""
        return math.prod(len(axis.choices) for axis in self._axes)

    def shape(self, first_cell: int) -> pb.GridShape:
        """Its axes; those along which all cells are alike are left out."""
        axes = [axis.message() for axis in self._axes if axis.is_axis]
        return pb.GridShape(first_cell=first_cell, component=self._component.name, axes=axes)

    def plan(self, number: int, pair: Pair) -> EditPlan:
        """The edit of a cell."""
        return self._plan(number, pair, self._expression(self._first_cell + number, pair))

    def _plan(self, number: int, pair: Pair, value: intervention_pb2.Expression) -> EditPlan:
        layer, heads, positions, units, features = self._at(number)
        point = self._points[layer]
        if self._dictionary is not None:
            value = self._of_features(features, value)
        select = site_pb2.Selector(heads=heads, rows=[pair.edited_row])
        if positions:
            select.positions.list.positions.extend(positions)
        edit = intervention_pb2.Intervention(
            intervention_id=self._label(point, heads, positions, units, features),
            site=point.to_message(),
            select=select,
            value=value,
        )
        return EditPlan(self._model, [edit], pair.lengths, 0, self._resolve, paths=[self._path], units=units)

    def extent(self, number: int, pair: Pair) -> Extent:
        """From the layer and the first position of the cell."""
        layer, _, positions, _, _ = self._at(number)
        point = self._points[layer] if self._dictionary is None else self._dictionary.point
        boundary = boundary_of(point.component, point.layer, self._model.layout.num_layers)
        return Extent(boundary, min((position % pair.length for position in positions), default=0))

    def samples(self, pair: Pair) -> Iterator[EditPlan]:
        """One cell of each layer, checked; cells of a layer differ in nothing else that could go wrong."""
        step = self.count // len(self._points)
        try:
            for number in range(0, self.count, step):
                for value in self._values(self._first_cell + number, pair):
                    plan = self._plan(number, pair, value)
                    check_donors(plan, pair)
                    yield plan
        except MLXIntegrationError as error:
            error.field = self._as_sent(error.field)
            raise

    def _values(self, cell: int, pair: Pair) -> Iterator[intervention_pb2.Expression]:
        """What may be put in the place of a cell's activation."""
        yield self._expression(cell, pair)
        if self._value.WhichOneof("value") == "resample":
            yield from map(_of_row, range(FIRST_REFERENCE, pair.mean_row))

    def _as_sent(self, field: str) -> str:
        """The field of the request that became part of an edit's expression."""
        value, kind = f"{self._path}.value", self._value.WhichOneof("value")
        if kind == "noise":
            return field.replace(f"{value}.binary.right", value, 1)
        return field.replace(value, f"{value}.expression", 1) if kind == "expression" else field

    def _heads(self, message: pb.SweepGrid) -> Choices:
        if not message.HasField("heads"):
            return Choices("head", [()], False)
        count = self._extent_of(tensor_pb2.AXIS_HEAD)
        if not count:
            raise InvalidRequestError(f"{self._points[0]} has no heads", field=f"{self._path}.heads")
        return _choices("head", message.heads, count, f"{self._path}.heads", f"{self._component.name} has")

    def _units(self, message: pb.SweepGrid) -> Choices:
        if not message.HasField("units"):
            return Choices("unit", [()], False)
        if self._component.axes[-1] == tensor_pb2.AXIS_KEY_POSITION:
            raise InvalidRequestError(
                f"the last axis of {self._component.name} is keys: it has no units", field=f"{self._path}.units"
            )
        count = self._extent_of(self._component.axes[-1])
        return _choices("unit", message.units, count, f"{self._path}.units", f"{self._component.name} has")

    def _asked_dictionary(self, message: pb.SweepGrid) -> Dictionary | None:
        """The dictionary whose features are swept, if they are.

        Raises:
            UnknownIdError: it is not loaded.
            InvalidRequestError: something is asked for that goes with whole activations alone.
        """
        if not message.HasField("features"):
            return None
        path = self._path
        dictionary = self._model.dictionary(message.features.dictionary_id, f"{path}.features.dictionary_id")
        for name in ("site", "heads", "units"):
            if message.HasField(name):
                raise InvalidRequestError(
                    "features are at the site of their dictionary, and all of it", field=f"{path}.{name}"
                )
        if message.layers:
            raise InvalidRequestError("features are of the layer of their dictionary", field=f"{path}.layers")
        kind = message.value.WhichOneof("value")
        if kind not in (None, "constant", "other_run", "resample"):
            raise InvalidRequestError(
                "features get a number, those of the other run or those of a drawn reference",
                field=f"{path}.value.{kind}",
            )
        return dictionary

    def _features(self, message: pb.SweepGrid) -> Choices:
        if self._dictionary is None:
            return Choices("feature", [()], False)
        path = f"{self._path}.features.axis"
        owner = f"dictionary {message.features.dictionary_id!r} has"
        return _choices("feature", message.features.axis, self._dictionary.feature_count, path, owner)

    def _of_features(self, features: Choice, value: intervention_pb2.Expression) -> intervention_pb2.Expression:
        """The value of a cell as a change of features."""
        assert self._dictionary is not None
        if value.WhichOneof("node") == "other_row":
            edit = intervention_pb2.FeatureEdit(features=features, other_row=value.other_row.row)
        else:
            edit = intervention_pb2.FeatureEdit(features=features, value=value.constant)
        name = self._dictionary.description.dictionary_id
        return intervention_pb2.Expression(features=intervention_pb2.FeatureEdits(dictionary_id=name, edits=[edit]))

    def _extent_of(self, axis: tensor_pb2.Axis.ValueType) -> int:
        """Of an axis, the smallest of all layers; 0 where the component has none."""
        if axis not in self._component.axes:
            return 0
        index = self._component.axes.index(axis)
        return min(self._model.layout.state(point).axes_extents[index] for point in self._points)

    def _positions(self, message: pb.SweepGrid, pairs: Sequence[Pair]) -> Choices:
        if not message.HasField("positions"):
            return Choices("position", [()], False)
        path, lengths = f"{self._path}.positions", {pair.length: pair.index for pair in pairs}
        if message.positions.WhichOneof("cells") == "each" and len(lengths) > 1:
            (one, first), (other, second), *_ = lengths.items()
            raise InvalidRequestError(
                f"the edited prompts of pairs {first} and {second} have {one} and {other} tokens: name the positions "
                "that they share, or count from the end",
                field=path,
            )
        for length, index in lengths.items():
            _choices("position", message.positions, length, path, f"the edited prompt of pair {index} has")
        (length, _), *_ = lengths.items()
        return _choices("position", message.positions, length, path, "", is_named=True)

    def _at(self, number: int) -> tuple[int, Choice, Choice, Choice, Choice]:
        indices = np.unravel_index(number, [len(axis.choices) for axis in self._axes])
        heads, positions, units, features = (
            axis.choices[int(index)] for axis, index in zip(self._axes[1:], indices[1:], strict=True)
        )
        return int(indices[0]), heads, positions, units, features

    def _label(self, point: Point, *choices: Choice) -> str:
        parts = [
            f"{axis.name} {', '.join(map(str, choice))}"
            for axis, choice in zip(self._axes[1:], choices, strict=True)
            if choice
        ]
        return " ".join([str(point), *parts])

    def _check_value(self) -> None:
        path = f"{self._path}.value"
        which = self._value.WhichOneof("value")
        if which is None:
            raise InvalidRequestError("what is put in the place of the activation is missing", field=path)
        has_columns = tensor_pb2.AXIS_KEY_POSITION in self._component.axes
        if which == "mean" and has_columns and not self._value.mean.by_position:
            raise InvalidRequestError(
                f"{self._component.name} has key positions, which no mean over positions keeps apart: by_position",
                field=f"{path}.mean",
            )

    def _expression(self, cell: int, pair: Pair) -> intervention_pb2.Expression:
        value = self._value
        match value.WhichOneof("value"):
            case "other_run":
                return _of_row(CORRUPTED if pair.edited_row == CLEAN else CLEAN)
            case "constant":
                return intervention_pb2.Expression(constant=value.constant)
            case "mean":
                return _of_row(pair.mean_by_position_row if value.mean.by_position else pair.mean_row)
            case "resample":
                if not pair.references:
                    raise InvalidRequestError("there are no reference prompts to draw from", field="references")
                draw = np.random.default_rng([value.resample.seed, pair.index, cell])
                return _of_row(FIRST_REFERENCE + int(draw.integers(len(pair.references))))
            case "noise":
                return intervention_pb2.Expression(
                    binary=intervention_pb2.BinaryOperation(
                        operator=intervention_pb2.BINARY_OPERATOR_ADD,
                        left=intervention_pb2.Expression(activation=intervention_pb2.Activation()),
                        right=intervention_pb2.Expression(noise=value.noise),
                    )
                )
            case _:
                return value.expression


def _of_row(row: int) -> intervention_pb2.Expression:
    return intervention_pb2.Expression(other_row=intervention_pb2.OtherRow(row=row))


def _choices(name: str, axis: pb.SweepAxis, count: int, path: str, owner: str, *, is_named: bool = False) -> Choices:
    """The choices of an axis; `is_named` keeps indices as the request names them."""
    match axis.WhichOneof("cells"):
        case "each":
            return Choices(name, [[index] for index in range(count)], True)
        case "one_by_one":
            indices = in_range(axis.one_by_one.indices, count, name, path, owner)
            named = axis.one_by_one.indices if is_named else indices
            return Choices(name, [[index] for index in named], True)
        case "together":
            indices = in_range(axis.together.indices, count, name, path, owner)
            return Choices(name, [list(axis.together.indices) if is_named else indices], False)
        case _:
            raise InvalidRequestError(f"the {name}s are missing: each, one_by_one or together", field=path)
