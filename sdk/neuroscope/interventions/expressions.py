"""What an edit puts in an activation's place, written with Python's operators and computed inside the model's graph.

    act                             the selected activation, as the model computed it
    act + 4 * direction             numbers, numpy arrays and whatever numpy makes an array of
    0.5 * act, -act, act / 2
    act.heads[3, 7].zero()          of two heads only
    act.replace(donor)              another tensor in its place
    act.replace(act.row(1))         the same place in another prompt of the request
    act - act.mean(reference)       the mean over batch and position of reference activations
    act.project_out(direction)
    act.clamp(-1, 1)
    act + noise(0.1, seed=1)
    act + 4 * tensor(tensor_id)     what `Client.put_tensor` uploaded

An expression is a message of the contract that is being built; nothing is computed here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NoReturn, SupportsIndex, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import expression_text
from neuroscope.interventions.checks import MAX_DEPTH, TOO_DEEP
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import tensors

Operand: TypeAlias = "Expression | float | ArrayLike"
"""What can stand beside an expression: another one, a number, or an array."""
TensorLike: TypeAlias = "str | ArrayLike | Expression"
"""An array, the id of an uploaded tensor, or what `tensor` and `captured` give."""

_OPERANDS = "an operand is a number, an array, an expression, or tensor('id') for an uploaded tensor"


class Expression:
    """A value over the selected activation. Its text is what it computes: `act + 4·tensor(128)`.

    Attributes:
        message: the expression as the contract carries it.
        selected_heads: heads of the activation that it is over; empty: all, None: it is over no activation.
        depth: nested operations.
    """

    __slots__ = ("depth", "message", "selected_heads")
    __array_ufunc__ = None  # numpy leaves `array * expression` to the expression

    def __init__(
        self, message: pb.Expression, selected_heads: tuple[int, ...] | None = None, *, depth: int = 0
    ) -> None:
        if depth > MAX_DEPTH:
            raise InvalidRequestError(TOO_DEEP, field="value")
        self.message = message
        self.selected_heads = selected_heads
        self.depth = depth

    def __add__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_ADD, self, other)

    def __radd__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_ADD, other, self)

    def __sub__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_SUBTRACT, self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_SUBTRACT, other, self)

    def __mul__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_MULTIPLY, self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_MULTIPLY, other, self)

    def __truediv__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_DIVIDE, self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return _binary(pb.BINARY_OPERATOR_DIVIDE, other, self)

    def __neg__(self) -> Expression:
        return _binary(pb.BINARY_OPERATOR_MULTIPLY, -1.0, self)

    def __pos__(self) -> Expression:
        return self

    def project_out(self, direction: TensorLike) -> Expression:
        """This without its component along a direction d of the width of the last axis: x - (x · d) d / |d|²."""
        out = pb.ProjectOut(operand=self.message, direction=to_reference(direction))
        return Expression(pb.Expression(project_out=out), self.selected_heads, depth=self.depth + 1)

    def clamp(self, minimum: float | None = None, maximum: float | None = None) -> Expression:
        """Every element limited to a range; None: no limit on that side."""
        try:
            clamp = pb.Clamp(operand=self.message, minimum=minimum, maximum=maximum)
        except TypeError as error:
            raise InvalidRequestError(f"clamp({minimum!r}, {maximum!r}): {error}", field="value") from None
        return Expression(pb.Expression(clamp=clamp), self.selected_heads, depth=self.depth + 1)

    def __repr__(self) -> str:
        return expression_text.describe(self.message)

    def __bool__(self) -> NoReturn:
        raise InvalidRequestError(f"{self} has its value inside the model only; Python cannot branch on it")

    def __array__(self, *arguments: Any, **options: Any) -> NoReturn:
        raise InvalidRequestError(f"numpy cannot compute with {self}; use its operators and methods")

    def __getitem__(self, index: Any) -> NoReturn:
        raise InvalidRequestError("select with positions=, steps= and rows= of the edit, heads with act.heads[3, 7]")


class SelectedActivation(Expression):
    """The selected activation itself: what the function of an edit is called with."""

    __slots__ = ()

    def __init__(self, heads: tuple[int, ...] = ()) -> None:
        super().__init__(pb.Expression(activation=pb.Activation()), heads)

    @property
    def heads(self) -> HeadIndex:
        """Heads by index: `act.heads[3]`, `act.heads[3, 7]`. The edit is then of these heads only."""
        return HeadIndex()

    def zero(self) -> Expression:
        """0 in its place."""
        return self.replace(0.0)

    def replace(self, value: Operand | str) -> Expression:
        """Something else in its place: an array, the id of an uploaded tensor, another row, a number."""
        other = tensor(value) if isinstance(value, str) else to_expression(value)
        return Expression(other.message, self.selected_heads, depth=other.depth)

    def row(self, row: int) -> Expression:
        """The same selection of the same site in another prompt of the request, for edits of `steps=0`."""
        try:
            other = pb.OtherRow(row=operator.index(row))
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"a row is a prompt's number from 0, not {row!r}: {error}") from None
        return Expression(pb.Expression(other_row=other), self.selected_heads)

    def mean(self, reference: TensorLike) -> Expression:
        """The mean of reference activations over batch and position.

        Args:
            reference: activations of the same site, such as `cache["mlp_out", 3]` of other prompts; leading axes that
                it lacks count as averaged already.
        """
        mean = pb.ReferenceMean(reference=to_reference(reference))
        return Expression(pb.Expression(reference_mean=mean), self.selected_heads)


class HeadIndex:
    """`act.heads`, to be indexed."""

    def __getitem__(self, index: SupportsIndex | Iterable[SupportsIndex]) -> SelectedActivation:
        try:
            heads = tuple(operator.index(head) for head in (index if isinstance(index, Iterable) else (index,)))
        except TypeError:
            raise InvalidRequestError(f"heads are numbers, as in act.heads[3, 7], not {index!r}") from None
        if not heads:
            raise InvalidRequestError("act.heads[...] selects nothing; leave it out to select all heads")
        return SelectedActivation(heads)


def tensor(value: TensorLike) -> Expression:
    """A tensor: the id that `Client.put_tensor` gave, or an array that goes with the request."""
    return Expression(pb.Expression(tensor=to_reference(value)))


def captured(capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> Expression:
    """A tensor of a capture that the service keeps, by its place in the capture's plan."""
    place = tensor_pb2.CapturedTensor(capture_id=capture_id, plan_index=plan_index, step=step, row=row)
    return Expression(pb.Expression(tensor=tensor_pb2.TensorReference(captured=place)))


def noise(standard_deviation: float, *, seed: int = 0, mean: float = 0.0) -> Expression:
    """Independent normal noise in units of the activation, the same for the same seed."""
    try:
        drawn = pb.Noise(seed=seed, standard_deviation=standard_deviation, mean=mean)
    except (TypeError, ValueError) as error:
        told = f"noise({standard_deviation!r}, seed={seed!r}, mean={mean!r}): {error}"
        raise InvalidRequestError(told, field="value") from None
    return Expression(pb.Expression(noise=drawn))


def to_expression(value: Operand | object) -> Expression:
    """A number or an array as an expression; an expression as it is.

    Raises:
        InvalidRequestError: the value is nothing that an expression is made of.
        DataConversionError: the array holds NaN, infinity or no numbers.
    """
    if isinstance(value, Expression):
        return value
    if value is None or isinstance(value, str | bytes | bool | dict | set) or callable(value):
        raise InvalidRequestError(f"{value!r} is no operand: {_OPERANDS}", field="value")
    array = tensors.to_array(value, field="value")
    if array.ndim == 0:
        exact = value if isinstance(value, float) else cast("np.generic", array[()]).item()
        return Expression(pb.Expression(constant=exact))
    return Expression(pb.Expression(tensor=_inline(array)))


def to_reference(value: TensorLike | tensor_pb2.TensorReference) -> tensor_pb2.TensorReference:
    """Where a tensor is: uploaded, in a capture, or in the request itself.

    Raises:
        InvalidRequestError: the value is an expression that is no tensor.
        DataConversionError: the array holds NaN, infinity or no numbers.
    """
    if isinstance(value, tensor_pb2.TensorReference):
        return value
    if isinstance(value, str):
        return tensor_pb2.TensorReference(tensor_id=value)
    if isinstance(value, Expression):
        if value.message.WhichOneof("node") != "tensor":
            raise InvalidRequestError(f"a tensor is wanted here, not {value}", field="value")
        return value.message.tensor
    return _inline(tensors.to_array(value, field="value"))


def _inline(array: tensors.Array) -> tensor_pb2.TensorReference:
    return tensor_pb2.TensorReference(inline=tensors.to_message(array))


def _binary(kind: pb.BinaryOperator.ValueType, left: Operand, right: Operand) -> Expression:
    first, second = to_expression(left), to_expression(right)
    over = {heads for heads in (first.selected_heads, second.selected_heads) if heads is not None}
    if len(over) > 1:
        raise InvalidRequestError("an edit is of one choice of heads; make an edit for each", field="select.heads")
    operation = pb.BinaryOperation(operator=kind, left=first.message, right=second.message)
    depth = max(first.depth, second.depth) + 1
    return Expression(pb.Expression(binary=operation), over.pop() if over else None, depth=depth)


def to_product(coefficient: float, value: Expression) -> Expression:
    """coefficient * value, and value alone for 1."""
    return value if coefficient == 1 else coefficient * value
