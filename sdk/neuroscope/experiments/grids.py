"""Axes and values of sweeps.

Along an axis of a grid, `EACH` makes a cell for each index, a list makes a cell for each entry, a number or
`together(3, 4)` is the same for all cells, and None takes all indices together.
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
    """Indices that every cell edits together."""

    indices: tuple[int, ...]


Axis: TypeAlias = "Literal['each'] | SupportsIndex | Iterable[SupportsIndex] | Together | None"


@dataclass(frozen=True, slots=True)
class Value:
    """The replacement for the selected activation."""

    message: pb.SweepValue


ValueLike: TypeAlias = "Value | Expression | float | Callable[[SelectedActivation], Expression]"


def together(*indices: SupportsIndex) -> Together:
    """Edits several indices together in every cell."""
    return Together(tuple(map(operator.index, indices)))


def other_run() -> Value:
    """The activation of the pair's other run: activation patching."""
    return Value(pb.SweepValue(other_run=pb.OtherRun()))


def mean(*, by_position: bool = False) -> Value:
    """The mean over reference prompts and positions, or per position: mean ablation."""
    return Value(pb.SweepValue(mean=pb.MeanOfReferences(by_position=by_position)))


def resample(seed: int = 0) -> Value:
    """The activation of a random reference prompt, drawn for each cell: resample ablation."""
    return Value(pb.SweepValue(resample=pb.ResampleReference(seed=seed)))


def to_value(value: Any) -> pb.SweepValue:
    """The contract's message of a value: a result of this module's functions, a number, or an expression.

    `noise(3.0)` replaces the activation with noise; `lambda act: act + noise(3.0)` adds noise.

    Raises:
        InvalidRequestError: the value has another type.
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
    """The contract's message of an axis; None takes all indices together.

    Raises:
        InvalidRequestError: the value has another type.
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
    """A list of integers from one or several.

    Raises:
        InvalidRequestError: a value is not an integer, or there are none.
    """
    try:
        listed = [operator.index(value)] if hasattr(value, "__index__") else [operator.index(entry) for entry in value]
    except TypeError:
        raise InvalidRequestError(f"{name} is made of whole numbers, not {value!r}", field=name) from None
    if not listed:
        raise InvalidRequestError(f"{name} names nothing", field=name)
    return listed
