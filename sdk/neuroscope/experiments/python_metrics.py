"""Functions of Python as metrics, where client and engine are one process (`Client.local`).

    def margin(logits):  # (rows, positions, vocabulary), float32, an mlx array
        return logits[..., MARY] - logits.max(axis=-1)

    client.patch(clean, corrupted).residual().run(python_metric(margin))

A request carries the name of a function, never the function: a service in another process refuses it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from neuroscope.experiments.metrics import Metric
from neuroscope.v1 import experiment_pb2 as pb

Function = Callable[[Any], Any]
"""(logits (rows, positions, vocabulary), float32) -> (rows, positions), in arrays of mlx."""

_functions: dict[str, Function] = {}
_numbers = itertools.count(1)


def python_metric(function: Function) -> Metric:
    """A metric that a function computes of the logits at the metric's positions, for every row of a batch at once.

    A position's number must follow from the logits at this position alone: others may be left out where they are known.
    Attributions differentiate it, so for them it uses mlx's operations alone; sweeps take NumPy's answers too.

    Args:
        function: of float32 logits (rows, positions, vocabulary), an `mlx.core.array`, to (rows, positions). It is held
            as long as the process runs.
    """
    held = (name for name, known in _functions.items() if known is function)
    name = next(held, None) or f"{getattr(function, '__qualname__', type(function).__name__)}-{next(_numbers)}"
    _functions[name] = function
    return Metric(pb.Metric(python_function=pb.PythonFunction(function_id=name)))


def function_of(name: str) -> Function | None:
    """The function of a name; None if this process holds none."""
    return _functions.get(name)
