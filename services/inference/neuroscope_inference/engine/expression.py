"""Expressions of interventions as functions of an activation inside the graph.

Everything that can be known before the model runs is checked as an expression is compiled: numbers that are not
finite, tensors that do not fit, operators that are missing. The arithmetic is float32, whatever the model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import xxhash
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.dictionaries.feature_changes import FeatureChanges

_OPERATORS: dict[pb.BinaryOperator.ValueType, Callable[[mx.array, mx.array], mx.array]] = {
    pb.BINARY_OPERATOR_ADD: mx.add,
    pb.BINARY_OPERATOR_SUBTRACT: mx.subtract,
    pb.BINARY_OPERATOR_MULTIPLY: mx.multiply,
    pb.BINARY_OPERATOR_DIVIDE: mx.divide,
}
ResolveTensor = Callable[[tensor_pb2.TensorReference, str], Array]
"""From a reference and its path in the request to its numbers."""
FindDictionary = Callable[[str, str], Dictionary]
"""From the id of a dictionary and its path in the request to the dictionary."""


@dataclass(frozen=True, slots=True)
class SelectedActivation:
    """The selected part of an activation in one forward pass.

    Args:
        array: (1, ...) in the point's axes, float32.
        row: prompt of the request.
        positions: absolute positions along the position axis.
        ordinals: of these positions, among all that the edit selects in the row.
        source: what a transcoder reads at these positions, where features of one are edited.
    """

    array: mx.array
    row: int
    positions: Sequence[int]
    ordinals: Sequence[int]
    transcoder_input: mx.array | None = None


Value = Callable[[SelectedActivation], mx.array]


@dataclass(frozen=True, slots=True)
class EditTarget:
    """What is known of an edit before anything runs.

    Args:
        point: where.
        axes: of the point.
        extents: of the point's axes, those of positions unknown.
        heads: the selected heads; empty: all, or none to select.
        position_counts: how many positions are selected, a row each; rows that are not edited are left out.
        last_position: the highest of them all.
        only_prompt: whether nothing but the prefill is edited.
        row_count: prompts of the request.
        has_rings: whether key columns may lie in another order than their positions.
    """

    point: Point
    axes: Sequence[tensor_pb2.Axis.ValueType]
    extents: Sequence[int]
    heads: Sequence[int]
    position_counts: dict[int, int]
    last_position: int
    only_prompt: bool
    row_count: int
    has_rotating_cache: bool


@dataclass(slots=True)
class ExpressionCompiler:
    """Compiles the expressions of one edit.

    Args:
        frame: where the edit is.
        resolve: finds tensors.
        donated: what another row's part is, by row and the part that asks.
        find: finds dictionaries.
    """

    target: EditTarget
    resolve: ResolveTensor
    other_row: Callable[[int, SelectedActivation], mx.array]
    find_dictionary: FindDictionary
    other_rows: set[int] = field(default_factory=set[int])
    reads_activation: bool = False
    transcoder: Dictionary | None = None
    """Whose input the value needs."""

    def compile(self, node: pb.Expression, path: str) -> Value:
        """The function that computes an expression.

        Raises:
            InvalidRequestError: a node is empty, or a number is out of range or not finite.
            DataConversionError: a tensor does not fit the selected part, or holds whole numbers.
            UnknownIdError, UnavailableSiteError: a dictionary is not there, or does not write here.
        """
        which = node.WhichOneof("node")
        match which:
            case "activation":
                self.reads_activation = True
                return lambda part: part.array
            case "constant":
                constant = _check_finite(node.constant, f"{path}.constant")
                return lambda part: mx.array(constant, mx.float32)
            case "tensor":
                return self._tensor(node.tensor, f"{path}.tensor")
            case "other_row":
                return self._other_row(node.other_row.row, f"{path}.other_row.row")
            case "reference_mean":
                return self._mean(node.reference_mean.reference, f"{path}.reference_mean.reference")
            case "noise":
                return self._noise(node.noise, f"{path}.noise")
            case "binary":
                return self._binary(node.binary, f"{path}.binary")
            case "project_out":
                return self._project_out(node.project_out, f"{path}.project_out")
            case "clamp":
                return self._clamp(node.clamp, f"{path}.clamp")
            case "features":
                return self._features(node.features, f"{path}.features")
            case _:
                raise InvalidRequestError("the expression is empty", field=path)

    def _features(self, node: pb.FeatureEdits, path: str) -> Value:
        dictionary = self.find_dictionary(node.dictionary_id, f"{path}.dictionary_id")
        if dictionary.output != self.target.point:
            raise UnavailableSiteError(
                f"dictionary {node.dictionary_id!r} writes {dictionary.output}, not {self.target.point}",
                field=f"{path}.dictionary_id",
            )
        if self.target.heads:
            raise InvalidRequestError(
                f"dictionary {node.dictionary_id!r} writes all heads together: select none",
                field=f"{path}.dictionary_id",
            )
        changes = FeatureChanges.from_message(node, dictionary, path)
        donors = {row: self._other_row(row, f"{path}.edits") for row in changes.other_rows}
        self.reads_activation = True
        if dictionary.is_transcoder:
            if self.transcoder not in (None, dictionary):
                raise InvalidRequestError("an edit is of one transcoder; make an edit for each", field=path)
            self.transcoder = dictionary

        def value(part: SelectedActivation) -> mx.array:
            source = part.transcoder_input if dictionary.is_transcoder else part.array
            assert source is not None
            return changes.apply(part.array, source, lambda row: donors[row](part))

        return value

    def _binary(self, node: pb.BinaryOperation, path: str) -> Value:
        operator = _OPERATORS.get(node.operator)
        if operator is None:
            raise InvalidRequestError("the operation has no operator", field=f"{path}.operator")
        left, right = self.compile(node.left, f"{path}.left"), self.compile(node.right, f"{path}.right")
        return lambda part: operator(left(part), right(part))

    def _clamp(self, node: pb.Clamp, path: str) -> Value:
        low = _check_finite(node.minimum, f"{path}.minimum") if node.HasField("minimum") else None
        high = _check_finite(node.maximum, f"{path}.maximum") if node.HasField("maximum") else None
        if low is None and high is None:
            raise InvalidRequestError("a clamp has a minimum, a maximum or both", field=path)
        if low is not None and high is not None and low > high:
            raise InvalidRequestError(f"the minimum {low} is above the maximum {high}", field=f"{path}.minimum")
        operand = self.compile(node.operand, f"{path}.operand")
        return lambda part: mx.clip(operand(part), low, high)

    def _project_out(self, node: pb.ProjectOut, path: str) -> Value:
        array = self._resolve_float32(node.direction, f"{path}.direction")
        width = self.target.extents[-1]
        if tensor_pb2.AXIS_KEY_POSITION in self.target.axes:
            raise InvalidRequestError(f"{self.target.point} has no directions: its last axis is keys", field=path)
        if array.size != width or array.shape[-1] != width:
            raise DataConversionError(
                f"a direction of {self.target.point} has {width} entries, this one has the shape {list(array.shape)}",
                field=f"{path}.direction",
            )
        flat = array.reshape(-1)
        length = float(np.linalg.norm(flat.astype(np.float64)))
        if length == 0:
            raise InvalidRequestError("the direction is zero", field=f"{path}.direction")
        unit = mx.array(flat / np.float32(length))
        operand = self.compile(node.operand, f"{path}.operand")

        def value(part: SelectedActivation) -> mx.array:
            x = operand(part)
            return x - (x * unit).sum(axis=-1, keepdims=True) * unit

        return value

    def _noise(self, node: pb.Noise, path: str) -> Value:
        """Independent of how positions are computed: every position has a key of its own."""
        deviation = _check_finite(node.standard_deviation, f"{path}.standard_deviation")
        mean = _check_finite(node.mean, f"{path}.mean")
        if deviation < 0:
            raise InvalidRequestError("a standard deviation is not negative", field=f"{path}.standard_deviation")
        if tensor_pb2.AXIS_KEY_POSITION in self.target.axes:
            raise InvalidRequestError("noise over keys would depend on how many there are so far", field=path)
        if node.unit not in pb.NoiseUnit.values():
            raise InvalidRequestError(f"the contract has no unit {node.unit}", field=f"{path}.unit")
        is_own = node.unit == pb.NOISE_UNIT_OWN_DEVIATION
        seed, axis = f"{node.seed}/{self.target.point}", self.target.axes.index(tensor_pb2.AXIS_POSITION)

        def value(part: SelectedActivation) -> mx.array:
            shape = list(part.array.shape)
            shape[axis] = 1
            draws = [mx.random.normal(shape, key=_key(f"{seed}/{part.row}/{position}")) for position in part.positions]
            noise = mean + deviation * (draws[0] if len(draws) == 1 else mx.concatenate(draws, axis=axis))
            if not is_own:
                return noise
            others = [index for index in range(part.array.ndim) if index != axis]
            return noise * mx.sqrt(mx.var(part.array, axis=others, keepdims=True))

        return value

    def _mean(self, reference: tensor_pb2.TensorReference, path: str) -> Value:
        """Over batch and position; what is left has the axes behind them."""
        array = self._resolve_float32(reference, path)
        averaged = tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION
        over = [index - len(self.target.axes) for index, axis in enumerate(self.target.axes) if axis in averaged]
        mean = array.mean(axis=tuple(axis for axis in over if axis >= -array.ndim), keepdims=True, dtype=np.float64)
        return self._broadcast(mean.astype(np.float32), path)

    def _tensor(self, reference: tensor_pb2.TensorReference, path: str) -> Value:
        return self._broadcast(self._resolve_float32(reference, path), path)

    def _other_row(self, row: int, path: str) -> Value:
        if row >= self.target.row_count:
            raise InvalidRequestError(
                f"row {row} is out of range: the request has {self.target.row_count} prompts", field=path
            )
        if not self.target.only_prompt:
            raise InvalidRequestError(
                "another prompt's activation is there for the prompt alone: select step 0, or its positions", field=path
            )
        self.other_rows.add(row)
        return lambda part: self.other_row(row, part)

    def _resolve_float32(self, reference: tensor_pb2.TensorReference, path: str) -> NDArray[np.float32]:
        array = self.resolve(reference, path)
        if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
            raise DataConversionError(
                f"an activation is made of floating-point numbers, this tensor of {array.dtype.name}", field=path
            )
        numbers: NDArray[np.float32] = array.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise DataConversionError("the tensor holds numbers that float32 does not", field=path)
        return numbers

    def _broadcast(self, array: NDArray[np.float32], path: str) -> Value:
        """A tensor that broadcasts to the selected part; positions and heads are looked up where it has them all.

        Raises:
            DataConversionError: it does not; says what would.
        """
        frame = self.target
        if array.ndim > len(frame.axes):
            raise self._shape_error(array, path)
        heads: Sequence[int] = ()
        by_position = by_key = False
        for axis, extent in zip(range(-array.ndim, 0), array.shape, strict=True):
            if extent == 1:
                continue
            match frame.axes[axis]:
                case tensor_pb2.AXIS_BATCH:
                    raise self._shape_error(array, path)
                case tensor_pb2.AXIS_POSITION:
                    if any(extent != count for count in frame.position_counts.values()):
                        raise self._shape_error(array, path)
                    by_position = True
                case tensor_pb2.AXIS_KEY_POSITION:
                    if frame.has_rotating_cache:
                        raise InvalidRequestError(
                            "this model keeps keys in rings, where a column is now one position and now another",
                            field=path,
                        )
                    if extent <= frame.last_position:
                        raise self._shape_error(array, path)
                    by_key = True
                case tensor_pb2.AXIS_HEAD if frame.heads and extent != len(frame.heads):
                    if extent != frame.extents[axis]:
                        raise self._shape_error(array, path)
                    heads = frame.heads
                case tensor_pb2.AXIS_HEAD if frame.heads:
                    pass
                case _ if extent != frame.extents[axis]:
                    raise self._shape_error(array, path)
                case _:
                    pass
        if heads:
            array = np.take(array, heads, axis=frame.axes.index(tensor_pb2.AXIS_HEAD) - len(frame.axes))
        whole = mx.array(array)
        if not by_position and not by_key:
            return lambda part: whole
        position_axis = frame.axes.index(tensor_pb2.AXIS_POSITION) - len(frame.axes)

        def value(part: SelectedActivation) -> mx.array:
            x = whole
            if by_position:
                x = mx.take(x, mx.array(list(part.ordinals)), axis=position_axis)
            if by_key:
                x = x[..., : part.array.shape[-1]]
            return x

        return value

    def _shape_error(self, array: NDArray[np.float32], path: str) -> DataConversionError:
        wanted: list[str] = []
        counts = sorted(set(self.target.position_counts.values()))
        for axis, extent in zip(self.target.axes, self.target.extents, strict=True):
            name = tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower()
            match axis:
                case tensor_pb2.AXIS_BATCH:
                    wanted.append("batch 1")
                case tensor_pb2.AXIS_POSITION:
                    wanted.append(f"position {' or '.join(map(str, counts[:3]))}")
                case tensor_pb2.AXIS_KEY_POSITION:
                    wanted.append(f"{name} {self.target.last_position + 1}")
                case tensor_pb2.AXIS_HEAD if self.target.heads:
                    wanted.append(f"head {len(self.target.heads)}")
                case _:
                    wanted.append(f"{name} {extent}")
        hint = (
            "" if self.target.only_prompt else "; generated positions are selected too unless the edit selects step 0"
        )
        return DataConversionError(
            f"a tensor of shape {list(array.shape)} does not fit {self.target.point}: what is selected there has "
            f"{', '.join(wanted)}, and every axis may be 1{hint}",
            field=path,
        )


def _key(text: str) -> mx.array:
    return mx.random.key(xxhash.xxh3_64_intdigest(text.encode()) >> 1)


def _check_finite(number: float, path: str) -> float:
    if not math.isfinite(number):
        raise InvalidRequestError(f"{number} is not a finite number", field=path)
    return number
