"""What an Intervention message means, in plain numpy float64: the referee of the engine that applies them.

It evaluates a message on the whole activation of one prompt, prompt and generated tokens at once, as `numpy_forward`
has it, and shares nothing with the engine but the messages and the vocabulary of sites.

    edits = edits_of([intervention], Row(prompt_length=9), num_layers=4)
    seen = forward(folder, prompt_ids + generated_ids, edits)

An edit reads the selected part, (1, selected positions, ...), and its value takes the part's place. Edits of one point
apply in the order given, each to what the one before it left. Noise is the engine's own and is refused here.

What is selected, of a prompt of P tokens:
    heads       index into the head axis; negative from the last
    positions   absolute; negative ones count from P: -1 is position P - 1. A range without a stop goes to the end
    steps       step 0 holds the positions 0 ... P - 1, step s > 0 the position P + s - 1
    rows        this row, or the edit does nothing here
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.tensors import numpy_dtype
from tests.support.numpy_forward import Activations, Array, Edits

Axes = tuple[tensor_pb2.Axis.ValueType, ...]
Captured = tuple[str, int, int, int]
"""A tensor of a stored capture: capture_id, plan_index, step, row."""

READ_BY = {"attn_out": "ln1", "mlp_out": "ln2"}
"""What a pre-norm block's module reads: its input is the norm's output, and nobody else's."""


@dataclass(frozen=True)
class OtherPrompt:
    """Another row of the request: its activations, as the model computed them, and the length of its prompt."""

    seen: Activations
    prompt_length: int


@dataclass(frozen=True)
class Row:
    """The prompt that is edited, and what its edits may refer to."""

    prompt_length: int
    row: int = 0
    others: Mapping[int, OtherPrompt] = field(default_factory=dict[int, OtherPrompt])
    tensors: Mapping[str | Captured, Array] = field(default_factory=dict[str | Captured, Array])


def edits_of(interventions: Sequence[pb.Intervention], row: Row, *, num_layers: int) -> Edits:
    """Interventions as `forward` takes them: one function for each point that they touch."""
    chains: dict[sites.Point, list[pb.Intervention]] = {}
    for intervention in interventions:
        for point in sites.resolve(intervention.site, num_layers):
            chains.setdefault(_where_it_is_made(point), []).append(intervention)
    return {(point.component, point.layer): _chain(chain, point, row) for point, chain in chains.items()}


def apply(intervention: pb.Intervention, activation: Array, point: sites.Point, row: Row) -> Array:
    """The whole activation of a point, (1, T, ...), after one edit; `activation` stays as it is."""
    if intervention.select.rows and row.row not in intervention.select.rows:
        return activation
    axes = sites.COMPONENTS[point.component].axes
    where = selection(intervention.select, activation.shape, axes, row.prompt_length)
    edited = activation.copy()
    edited[where] = np.broadcast_to(
        _Evaluation(intervention, point, axes, row).value(intervention.value, activation[where]),
        activation[where].shape,
    )
    return edited


def selection(
    select: site_pb2.Selector, shape: Sequence[int], axes: Axes, prompt_length: int
) -> tuple[NDArray[np.intp], ...]:
    """Indices along every axis, as numpy.ix_ makes them: activation[selection(...)] is the selected part."""
    chosen = [np.arange(extent) for extent in shape]
    position_axis = axes.index(tensor_pb2.AXIS_POSITION)
    chosen[position_axis] = _positions(select, shape[position_axis], prompt_length)
    if select.heads:
        chosen[axes.index(tensor_pb2.AXIS_HEAD)] = np.arange(shape[axes.index(tensor_pb2.AXIS_HEAD)])[select.heads]
    return np.ix_(*chosen)


def _positions(select: site_pb2.Selector, length: int, prompt_length: int) -> NDArray[np.intp]:
    """The selected absolute positions, in the order named."""

    def absolute(position: int) -> int:
        return position + prompt_length if position < 0 else position

    match select.positions.WhichOneof("which"):
        case "list":
            named = [absolute(position) for position in select.positions.list.positions]
        case "range":
            bounds = select.positions.range
            stop = min(absolute(bounds.stop), length) if bounds.HasField("stop") else length
            named = list(range(max(absolute(bounds.start), 0), stop))
        case _:
            named = list(range(length))
    steps = [max(position - prompt_length + 1, 0) for position in named]
    if select.HasField("steps"):
        last = select.steps.stop if select.steps.HasField("stop") else length
        named = [p for p, step in zip(named, steps, strict=True) if select.steps.start <= step < last]
    return np.array([position for position in named if position < length], dtype=np.intp)


def _where_it_is_made(point: sites.Point) -> sites.Point:
    return sites.Point(READ_BY[point.component], point.layer) if point.is_input else point


def _chain(chain: Sequence[pb.Intervention], point: sites.Point, row: Row) -> Callable[[Array], Array]:
    def edit(activation: Array) -> Array:
        for intervention in chain:
            activation = apply(intervention, activation, point, row)
        return activation

    return edit


@dataclass(frozen=True)
class _Evaluation:
    """One edit's expression, node by node; every value broadcasts to the selected part."""

    intervention: pb.Intervention
    point: sites.Point
    axes: Axes
    row: Row

    def value(self, node: pb.Expression, part: Array) -> Array:
        match node.WhichOneof("node"):
            case "activation":
                return part
            case "constant":
                return np.array(node.constant)
            case "tensor":
                return self._tensor(node.tensor)
            case "other_row":
                return self._other_row(node.other_row.row)
            case "reference_mean":
                return self._mean(self._tensor(node.reference_mean.reference))
            case "binary":
                left, right = self.value(node.binary.left, part), self.value(node.binary.right, part)
                return _OPERATORS[node.binary.operator](left, right)
            case "project_out":
                operand = self.value(node.project_out.operand, part)
                direction = self._tensor(node.project_out.direction).reshape(-1)  # (width,)
                along = np.sum(operand * direction, axis=-1, keepdims=True) / np.sum(direction**2)
                return operand - along * direction
            case "clamp":
                operand = self.value(node.clamp.operand, part)
                if node.clamp.HasField("minimum"):
                    operand = np.maximum(operand, node.clamp.minimum)
                if node.clamp.HasField("maximum"):
                    operand = np.minimum(operand, node.clamp.maximum)
                return operand
            case "noise":
                raise NotImplementedError("noise is drawn by the engine; there is nothing to compare it with")
            case _:
                raise ValueError("the expression is empty")

    def _tensor(self, reference: tensor_pb2.TensorReference) -> Array:
        match reference.WhichOneof("source"):
            case "inline":
                tensor = np.frombuffer(reference.inline.data, numpy_dtype(reference.inline.dtype))
                return tensor.reshape(tuple(reference.inline.shape)).astype(np.float64)
            case "tensor_id":
                return self.row.tensors[reference.tensor_id]
            case "captured":
                one = reference.captured
                return self.row.tensors[one.capture_id, one.plan_index, one.step, one.row]
            case _:
                raise ValueError("the reference to a tensor is empty")

    def _other_row(self, row: int) -> Array:
        """The part of the other prompt that the same selector names there."""
        other = self.row.others[row]
        activation = other.seen[self.point.component, self.point.layer]
        return activation[selection(self.intervention.select, activation.shape, self.axes, other.prompt_length)]

    def _mean(self, reference: Array) -> Array:
        """Over batch and position, which stay as axes of one; axes are counted from the last."""
        averaged = tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION
        over = [index - len(self.axes) for index, axis in enumerate(self.axes) if axis in averaged]
        return np.mean(reference, axis=tuple(axis for axis in over if axis >= -reference.ndim), keepdims=True)


_OPERATORS: dict[pb.BinaryOperator.ValueType, Callable[[Array, Array], Array]] = {
    pb.BINARY_OPERATOR_ADD: np.add,
    pb.BINARY_OPERATOR_SUBTRACT: np.subtract,
    pb.BINARY_OPERATOR_MULTIPLY: np.multiply,
    pb.BINARY_OPERATOR_DIVIDE: np.divide,
}
