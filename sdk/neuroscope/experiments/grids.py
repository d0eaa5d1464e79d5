"""What is swept and what is put there, as Python writes it.

Along an axis of a grid: `EACH` index is a cell of its own; a list is a cell for each of its entries; a number, or
`together(3, 4)`, is one choice for all cells; None is all of them together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, SupportsIndex, TypeAlias, cast

from neuroscope import interventions
from neuroscope.errors import InvalidRequestError
from neuroscope.interventions.expressions import Expression, SelectedActivation, to_expression
from neuroscope.v1 import experiment_pb2 as pb

EACH: Final = "each"


@dataclass(frozen=True, slots=True)
class Together:
    """Indices that every cell selects together."""

    indices: tuple[int, ...]


Axis: TypeAlias = "Literal['each'] | SupportsIndex | Iterable[SupportsIndex] | Together | None"


@dataclass(frozen=True, slots=True)
class Value:
    """What a cell puts in the place of the selected activation."""

    message: pb.SweepValue


ValueLike: TypeAlias = "Value | Expression | float | Callable[[SelectedActivation], Expression]"


def together(*indices: SupportsIndex) -> Together:
    """One choice for all cells."""
    return Together(tuple(map(operator.index, indices)))


def other_run() -> Value:
    """What the pair's other run has at the same place."""
    return Value(pb.SweepValue(other_run=pb.OtherRun()))


def mean(*, by_position: bool = False) -> Value:
    """The mean over the reference prompts and their positions, or at each position."""
    return Value(pb.SweepValue(mean=pb.MeanOfReferences(by_position=by_position)))


def resample(seed: int = 0) -> Value:
    """What a reference prompt has at the same place, drawn anew for each cell."""
    return Value(pb.SweepValue(resample=pb.ResampleReference(seed=seed)))


def to_value(value: Any) -> pb.SweepValue:
    """The message of a value: what the functions of this module give, a number, or an expression.

    Noise alone would be `noise(3.0)`; the activation with noise is `lambda act: act + noise(3.0)`.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if isinstance(value, Value):
        return value.message
    if isinstance(value, int | float) and not isinstance(value, bool):
        return pb.SweepValue(constant=value)
    if callable(value):
        edit = interventions.edit("head_output", 0, cast("Any", value))
        if edit.message.select.heads:
            raise InvalidRequestError("a grid says itself which heads are edited", field="value")
        return pb.SweepValue(expression=edit.message.value)
    return pb.SweepValue(expression=to_expression(value).message)


def to_axis(value: Any, name: str) -> pb.SweepAxis | None:
    """The message of an axis; None: all indices together.

    Raises:
        InvalidRequestError: it has none of the forms.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value == EACH:
            return pb.SweepAxis(each=pb.EachIndex())
        raise InvalidRequestError(f"{name} is 'each', numbers, together(...) or None, not {value!r}", field=name)
    if isinstance(value, Together):
        return pb.SweepAxis(together=pb.Indices(indices=to_indices(value.indices, name)))
    if hasattr(value, "__index__"):
        return pb.SweepAxis(together=pb.Indices(indices=[operator.index(value)]))
    return pb.SweepAxis(one_by_one=pb.Indices(indices=to_indices(value, name)))


def to_indices(value: Any, name: str) -> Sequence[int]:
    """Whole numbers from one or several.

    Raises:
        InvalidRequestError: they are not, or there are none.
    """
    try:
        listed = [operator.index(value)] if hasattr(value, "__index__") else [operator.index(entry) for entry in value]
    except TypeError:
        raise InvalidRequestError(f"{name} is made of whole numbers, not {value!r}", field=name) from None
    if not listed:
        raise InvalidRequestError(f"{name} names nothing", field=name)
    return listed
