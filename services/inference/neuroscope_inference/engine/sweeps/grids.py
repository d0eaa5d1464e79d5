"""A grid of cells: layers x heads x positions x units of one component, or features of a dictionary; an edit each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Component, Point
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey
from neuroscope_inference.engine.sweeps.cells import (
    ROW_EDITS,
    EditExtent,
    boundary_of,
    check_donors,
    make_generation_plan,
)
from neuroscope_inference.engine.sweeps.pair import Pair
from neuroscope_inference.engine.sweeps.points import check_indices, resolve_points
from neuroscope_inference.engine.sweeps.replacement import MEAN, ReplacementValue

Choice = Sequence[int]
"""Indices that one cell selects together; empty: all."""


@dataclass(frozen=True, slots=True)
class AxisChoices:
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
        find: ResolveTensor,
    ) -> None:
        self._model, self._path, self._resolve = model, path, find
        self._first_cell = first_cell
        self._dictionary = self._find_dictionary(message)
        self._points = (
            resolve_points(model, message.site, message.layers, path)
            if self._dictionary is None
            else [self._dictionary.output]
        )
        self._component: Component = COMPONENTS[self._points[0].component]
        layers = [[-1 if point.layer is None else point.layer] for point in self._points]
        self._axes = (
            AxisChoices("layer", layers, self._component.has_layer),
            self._heads(message),
            self._positions(message, pairs),
            self._units(message),
            self._features(message),
        )
        self._window = max(message.layer_window, 1)
        if self._window > 1 and not self._component.has_layer:
            raise InvalidRequestError(f"{self._component.name} has no layers", field=f"{path}.layer_window")
        self._windows = [self._layer_window(point) for point in self._points]
        self._value = ReplacementValue(message.value, f"{path}.value", self._component)

    @property
    def count(self) -> int:
        """How many cells."""
        return math.prod(len(axis.choices) for axis in self._axes)

    def shape(self, first_cell: int) -> pb.GridShape:
        """Its axes; those along which all cells are alike are left out."""
        axes = [axis.message() for axis in self._axes if axis.is_axis]
        return pb.GridShape(first_cell=first_cell, component=self._component.name, axes=axes)

    def check_supported(self) -> None:
        """Nothing: what can be edited is known since the model was loaded."""

    def plan(self, number: int, pair: Pair) -> EditPlan:
        """The edit of a cell."""
        return self._plan(number, pair, self._value.expression(self._first_cell + number, pair))

    def generation_plan(
        self, number: int, pair: Pair, new_tokens: int, given: Mapping[ActivationKey, mx.array]
    ) -> EditPlan | None:
        """The same edits, where the cell is of all positions and its value is not of the prompt alone."""
        layer, _, positions, units, _ = self._indices(number)
        value = None if positions else self._value.generation_expression(self._first_cell + number, pair)
        if value is None:
            return None
        edits = self._edits(number, pair, value)
        for index, edit in enumerate(edits):
            if edit.value.tensor.tensor_id == MEAN:
                edit.value.tensor.tensor_id += str(index)

        def resolve(reference: tensor_pb2.TensorReference, path: str) -> Array:
            if not reference.tensor_id.startswith(MEAN):
                return self._resolve(reference, path)
            point = self._windows[layer][int(reference.tensor_id.removeprefix(MEAN))]
            mean = given[pair.mean_row, self._model.layout.index[point]]
            axis = self._component.axes.index(tensor_pb2.AXIS_POSITION)
            return np.array(mx.take(mean, mx.array([0]), axis=axis).astype(mx.float32))  # alike at all positions

        return make_generation_plan(self._model, edits, pair, new_tokens, resolve, units)

    def _plan(self, number: int, pair: Pair, value: intervention_pb2.Expression) -> EditPlan:
        edits, units = self._edits(number, pair, value), self._indices(number)[3]
        paths = [self._path] * len(edits)
        return EditPlan(self._model, edits, pair.lengths, 0, self._resolve, paths=paths, units=units)

    def _edits(
        self, number: int, pair: Pair, value: intervention_pb2.Expression
    ) -> list[intervention_pb2.Intervention]:
        """An edit for each layer of the cell."""
        layer, heads, positions, units, features = self._indices(number)
        if self._dictionary is not None:
            value = self._feature_value(features, value)
        select = site_pb2.Selector(heads=heads, rows=[pair.edited_row])
        if positions:
            select.positions.list.positions.extend(positions)
        return [
            intervention_pb2.Intervention(
                intervention_id=self._label(point, heads, positions, units, features),
                site=point.to_message(),
                select=select,
                value=value,
            )
            for point in self._windows[layer]
        ]

    def batch_key(self, number: int, pair: Pair) -> bytes:
        """Any that are edited row by row."""
        return ROW_EDITS

    def extent(self, number: int, pair: Pair) -> EditExtent:
        """From the layer and the first position of the cell."""
        layer, _, positions, *_ = self._indices(number)
        read = self._windows[layer] if self._dictionary is None else [self._dictionary.point]
        layers = self._model.layout.num_layers
        boundary = min(boundary_of(point.component, point.layer, layers) for point in read)
        return EditExtent(boundary, min((position % pair.length for position in positions), default=0))

    def sample_plans(self, pair: Pair) -> Iterator[EditPlan]:
        """One cell of each layer, checked; cells of a layer differ in nothing else that could go wrong."""
        step = self.count // len(self._points)
        try:
            for number in range(0, self.count, step):
                for value in self._value.samples(self._first_cell + number, pair):
                    plan = self._plan(number, pair, value)
                    check_donors(plan, pair)
                    yield plan
        except MLXIntegrationError as error:
            error.field = self._value.request_field(error.field).replace(f"{self._path}.select.", f"{self._path}.", 1)
            raise

    def _layer_window(self, point: Point) -> list[Point]:
        """The points that a cell of a layer edits: those of its window that the model has (Meng et al. 2022)."""
        if point.layer is None or self._window == 1:
            return [point]
        first, stop = point.layer - self._window // 2, point.layer + (self._window + 1) // 2
        layers = range(max(first, 0), min(stop, self._model.layout.num_layers))
        near = [Point(point.component, layer, point.is_input) for layer in layers]
        return [other for other in near if not self._model.layout.state(other).reason]

    def _heads(self, message: pb.SweepGrid) -> AxisChoices:
        if not message.HasField("heads"):
            return AxisChoices("head", [()], False)
        count = self._min_extent(tensor_pb2.AXIS_HEAD)
        if not count:
            raise InvalidRequestError(f"{self._points[0]} has no heads", field=f"{self._path}.heads")
        return _choices("head", message.heads, count, f"{self._path}.heads", f"{self._component.name} has")

    def _units(self, message: pb.SweepGrid) -> AxisChoices:
        if not message.HasField("units"):
            return AxisChoices("unit", [()], False)
        if self._component.axes[-1] == tensor_pb2.AXIS_KEY_POSITION:
            raise InvalidRequestError(
                f"the last axis of {self._component.name} is keys: it has no units", field=f"{self._path}.units"
            )
        count = self._min_extent(self._component.axes[-1])
        return _choices("unit", message.units, count, f"{self._path}.units", f"{self._component.name} has")

    def _find_dictionary(self, message: pb.SweepGrid) -> Dictionary | None:
        """The dictionary whose features are swept, if they are.

        Raises:
            UnknownIdError: it is not loaded.
            InvalidRequestError: something is asked for that goes with whole activations alone.
        """
        if not message.HasField("features"):
            return None
        path = self._path
        dictionary = self._model.require_dictionary(message.features.dictionary_id, f"{path}.features.dictionary_id")
        for name in ("site", "heads", "units"):
            if message.HasField(name):
                raise InvalidRequestError(
                    "features are at the site of their dictionary, and all of it", field=f"{path}.{name}"
                )
        for name, is_asked in (("layers", bool(message.layers)), ("layer_window", message.layer_window > 1)):
            if is_asked:
                raise InvalidRequestError("features are of the layer of their dictionary", field=f"{path}.{name}")
        kind = message.value.WhichOneof("value")
        if kind not in (None, "constant", "other_run", "resample"):
            raise InvalidRequestError(
                "features get a number, those of the other run or those of a drawn reference",
                field=f"{path}.value.{kind}",
            )
        return dictionary

    def _features(self, message: pb.SweepGrid) -> AxisChoices:
        if self._dictionary is None:
            return AxisChoices("feature", [()], False)
        path = f"{self._path}.features.axis"
        owner = f"dictionary {message.features.dictionary_id!r} has"
        return _choices("feature", message.features.axis, self._dictionary.feature_count, path, owner)

    def _feature_value(self, features: Choice, value: intervention_pb2.Expression) -> intervention_pb2.Expression:
        """The value of a cell as a change of features."""
        assert self._dictionary is not None
        if value.WhichOneof("node") == "other_row":
            edit = intervention_pb2.FeatureEdit(features=features, other_row=value.other_row.row)
        else:
            edit = intervention_pb2.FeatureEdit(features=features, value=value.constant)
        name = self._dictionary.description.dictionary_id
        return intervention_pb2.Expression(features=intervention_pb2.FeatureEdits(dictionary_id=name, edits=[edit]))

    def _min_extent(self, axis: tensor_pb2.Axis.ValueType) -> int:
        """Of an axis, the smallest of all layers; 0 where the component has none."""
        if axis not in self._component.axes:
            return 0
        index = self._component.axes.index(axis)
        return min(self._model.layout.state(point).axes_extents[index] for point in self._points)

    def _positions(self, message: pb.SweepGrid, pairs: Sequence[Pair]) -> AxisChoices:
        if not message.HasField("positions"):
            return AxisChoices("position", [()], False)
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

    def _indices(self, number: int) -> tuple[int, Choice, Choice, Choice, Choice]:
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


def _choices(
    name: str, axis: pb.SweepAxis, count: int, path: str, owner: str, *, is_named: bool = False
) -> AxisChoices:
    """The choices of an axis; `is_named` keeps indices as the request names them."""
    match axis.WhichOneof("cells"):
        case "each":
            return AxisChoices(name, [[index] for index in range(count)], True)
        case "one_by_one":
            indices = check_indices(axis.one_by_one.indices, count, name, path, owner)
            named = axis.one_by_one.indices if is_named else indices
            return AxisChoices(name, [[index] for index in named], True)
        case "together":
            indices = check_indices(axis.together.indices, count, name, path, owner)
            return AxisChoices(name, [list(axis.together.indices) if is_named else indices], False)
        case _:
            raise InvalidRequestError(f"the {name}s are missing: each, one_by_one or together", field=path)
