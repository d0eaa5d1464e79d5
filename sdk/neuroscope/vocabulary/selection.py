"""The part of a site's tensor that a hook reads or an edit changes, as Python writes it.

positions=3, positions=[0, -1], positions=slice(2, None)     negative ones count from the end of the prompt
steps=0, steps=slice(1, None)                                0 is the prefill
heads=[3, 7], rows=[0]
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary import sites

Positions: TypeAlias = "int | np.integer[Any] | Sequence[int] | slice | None"
Steps: TypeAlias = "SupportsIndex | slice | None"


def to_selector(
    heads: Sequence[int] = (), positions: Positions = None, steps: Steps = None, rows: Sequence[int] = ()
) -> site_pb2.Selector:
    """The selector as the contract carries it.

    Raises:
        InvalidRequestError: a range has a step, or `steps` is a list.
    """
    return site_pb2.Selector(heads=heads, positions=_positions(positions), steps=_steps(steps), rows=rows)


def check(select: site_pb2.Selector, component: str, field: str) -> None:
    """Finds what selects nothing or is said twice.

    Args:
        select: the selector.
        component: canonical component whose part it is.
        field: path of the selector in the request, for errors.

    Raises:
        InvalidRequestError: the selector cannot be meant.
    """
    for name, numbers in (("heads", select.heads), ("rows", select.rows), ("positions", select.positions.list)):
        values = list(numbers.positions if isinstance(numbers, site_pb2.PositionList) else numbers)
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if twice is not None:
            raise InvalidRequestError(f"{name} names {twice} twice", field=f"{field}.{name}")
    if select.heads and tensor_pb2.AXIS_HEAD not in sites.COMPONENTS[component].axes:
        valid = [name for name, known in sites.COMPONENTS.items() if tensor_pb2.AXIS_HEAD in known.axes]
        raise InvalidRequestError(
            f"{component} has no heads; components that have: {', '.join(valid)}", field=f"{field}.heads", valid=valid
        )
    if select.HasField("positions") and _is_empty(select.positions):
        raise InvalidRequestError("positions selects nothing; leave it out to select all", field=f"{field}.positions")
    if select.steps.HasField("stop") and select.steps.stop <= select.steps.start:
        raise InvalidRequestError("steps selects nothing; leave it out to select all", field=f"{field}.steps")


def describe(select: site_pb2.Selector) -> str:
    """`heads 3, 7; positions 2:; steps 0; rows 1`; empty for everything."""
    return "; ".join(f"{name} {values}" for name, values in _described(select))


def _described(select: site_pb2.Selector) -> Iterator[tuple[str, str]]:
    if select.heads:
        yield "heads", _list(select.heads)
    match select.positions.WhichOneof("which"):
        case "list":
            yield "positions", _list(select.positions.list.positions)
        case "range":
            yield "positions", _range(select.positions.range)
        case _:
            pass
    if select.HasField("steps"):
        steps = select.steps
        yield "steps", str(steps.start) if steps.HasField("stop") and steps.stop == steps.start + 1 else _range(steps)
    if select.rows:
        yield "rows", _list(select.rows)


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _range(bounds: site_pb2.PositionRange | site_pb2.StepSelector) -> str:
    return f"{bounds.start or ''}:{bounds.stop if bounds.HasField('stop') else ''}"


def _is_empty(positions: site_pb2.PositionSelector) -> bool:
    """Whether no prompt, however long, has one of the positions."""
    if positions.WhichOneof("which") == "list":
        return not positions.list.positions
    start, stop = positions.range.start, positions.range.stop
    if not positions.range.HasField("stop"):
        return False
    return stop == 0 or ((start < 0) == (stop < 0) and stop <= start)


def _positions(positions: Positions) -> site_pb2.PositionSelector | None:
    if positions is None:
        return None
    if isinstance(positions, slice):
        if positions.step not in (None, 1):
            raise InvalidRequestError("a range of positions has no step", field="positions")
        return site_pb2.PositionSelector(range=site_pb2.PositionRange(start=positions.start or 0, stop=positions.stop))
    if isinstance(positions, int | np.integer):
        positions = [int(positions)]
    return site_pb2.PositionSelector(list=site_pb2.PositionList(positions=positions))


def _steps(steps: Steps) -> site_pb2.StepSelector | None:
    if steps is None:
        return None
    if isinstance(steps, slice):
        if steps.step not in (None, 1):
            raise InvalidRequestError("a range of steps has no step of its own", field="steps")
        return site_pb2.StepSelector(start=steps.start or 0, stop=steps.stop)
    try:
        step = operator.index(steps)
    except TypeError:
        raise InvalidRequestError(f"steps is a number or a slice, not {steps!r}", field="steps") from None
    return site_pb2.StepSelector(start=step, stop=step + 1)
