"""Reading activations while a model runs: class swaps on its modules, and the tap that says what is wanted.

A module's class is replaced by a subclass of the same name whose `__call__` passes through a hook; parameters, paths
and isinstance stay as they were. With no tap in the switch a hooked module computes exactly what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.arrays import new_handle

Transform = Callable[[mx.array], mx.array]
PointIndex = int

_swapped_classes: dict[type[nn.Module], type[nn.Module]] = {}


class Tap:
    """What one forward pass is asked to read, and what it has read: lazy arrays by point index."""

    def __init__(self, wanted: Sequence[bool], stop_before: int | None = None) -> None:
        self.wanted = wanted
        self.stop_before = stop_before
        """Layer before which the forward pass ends."""
        self.seen: dict[PointIndex, mx.array] = {}
        self.key_columns: dict[int, tuple[int, int, int]] = {}
        """By layer, where the columns of its attention lie: positions so far, next slot of the ring, columns."""

    def see(self, point: PointIndex, value: mx.array, transform: Transform | None = None) -> None:
        """Keeps the value if the point is wanted."""
        if self.wanted[point]:
            handle = new_handle(value)
            self.seen[point] = handle if transform is None else transform(handle)


class Switch:
    """Where the hooks of one model find the tap of the running forward pass, if there is one."""

    __slots__ = ("tap",)

    def __init__(self) -> None:
        self.tap: Tap | None = None

    @contextmanager
    def reading(self, tap: Tap) -> Generator[Tap, None, None]:
        """Routes what the model computes inside the block to a tap."""
        self.tap = tap
        try:
            yield tap
        finally:
            self.tap = None


@dataclass(slots=True)
class Watch:
    """What is read at one module: which points its arguments and its result are."""

    module: nn.Module
    inputs: list[tuple[int, PointIndex]] = field(default_factory=list)  # (argument, point)
    outputs: list[tuple[PointIndex, Transform | None]] = field(default_factory=list)


def install(watch: Watch, switch: Switch, around: Callable[[Tap], Any] | None = None) -> None:
    """Hooks a module, once and for all; `around` makes a context manager for its call while a tap is there."""

    def hook(module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tap = switch.tap
        if tap is None:
            return call(module, *args, **kwargs)
        for argument, point in watch.inputs:
            given = args[argument : argument + 1] or list(kwargs.values())[argument - len(args) :]
            if given and isinstance(given[0], mx.array):
                tap.see(point, given[0])
        if around is None:
            result = call(module, *args, **kwargs)
        else:
            with around(tap):
                result = call(module, *args, **kwargs)
        value = result[0] if isinstance(result, tuple) else result
        if not isinstance(value, mx.array):
            return result
        for point, transform in watch.outputs:
            tap.see(point, value, transform)
        return result

    plain = type(watch.module)
    if plain not in _swapped_classes:
        _swapped_classes[plain] = _swapped(plain)
    watch.module.__class__ = _swapped_classes[plain]
    object.__setattr__(watch.module, "_neuroscope_hook", hook)


def _swapped(plain: type[nn.Module]) -> type[nn.Module]:
    call: Callable[..., Any] = plain.__call__

    def hooked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._neuroscope_hook(self, call, args, kwargs)

    return type(plain.__name__, (plain,), {"__call__": hooked_call, "__module__": plain.__module__})
