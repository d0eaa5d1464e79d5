"""Python functions as metrics, for an engine in the same process (`Client.local`).

    def margin(logits):  # (rows, positions, vocabulary), float32, an mlx array
        return logits[..., MARY] - logits.max(axis=-1)

    client.patch(clean, corrupted).residual().run(python_metric(margin))

A request has the name of a function, never the function itself. A service in another process refuses it.
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
    """A metric computed by a function from the logits at the metric's positions, for all rows of a batch at once.

    The value at a position must depend only on the logits at this position, since others may be left out. Attributions
    differentiate the function, which must then use mlx operations only; for sweeps it may also return numpy arrays.

    Args:
        function: maps float32 logits (rows, positions, vocabulary), an `mlx.core.array`, to (rows, positions). It is
            kept until the process ends.
    """
    held = (name for name, known in _functions.items() if known is function)
    name = next(held, None) or f"{getattr(function, '__qualname__', type(function).__name__)}-{next(_numbers)}"
    _functions[name] = function
    return Metric(pb.Metric(python_function=pb.PythonFunction(function_id=name)))


def function_of(name: str) -> Function | None:
    """The function of a name; None if there is none in this process."""
    return _functions.get(name)
