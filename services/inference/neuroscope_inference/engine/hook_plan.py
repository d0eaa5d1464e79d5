"""Reading activations while a model runs: class swaps on its modules, and the hook plan that says what is wanted.

A module's class is replaced by a subclass of the same name whose `__call__` passes through a hook; parameters, paths
and isinstance stay as they were. With no hook plan in the switch a hooked module computes exactly what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from neuroscope_inference.engine.arrays import new_handle
from neuroscope_inference.engine.module_hooks import HOOK

ApplyEdit = Callable[[mx.array], mx.array]
PointIndex = int

_swapped_classes: dict[type[nn.Module], type[nn.Module]] = {}


@dataclass(frozen=True, slots=True)
class PointView:
    """How a point looks in what a module passes on: the point's axes, and the way back for an edit.

    Args:
        read: the module's array to the point's.
        write: the module's array and the edited point to the module's array; None where there is no way back.
    """

    read: Callable[[mx.array], mx.array]
    write: Callable[[mx.array, mx.array], mx.array] | None = None


@dataclass(frozen=True, slots=True)
class RowEdit:
    """An edit of one row of the batch.

    Args:
        apply: the row's activation, (1, ...) in the point's axes, to its new value of the same shape and dtype.
        columns: of points with key columns, how many are the row's: the last ones, where a batch pads on the left.
        slot: which row.
    """

    apply: ApplyEdit
    columns: int | None = None
    slot: int = 0


class RowSchedule(Protocol):
    """Which rows run through which blocks, where they enter one after the other on the way up."""

    def enter(self, layer: int, stream: mx.array) -> mx.array:
        """The residual stream that a block reads, of the rows that have entered so far."""
        ...

    def leave(self, layer: int, stream: mx.array) -> mx.array:
        """What goes on after a block: its rows, and those that enter behind it."""
        ...

    def run(self, layer: int, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a block returns; blocks are passed by until the first row has entered."""
        ...


class HookPlan:
    """What one forward pass is asked to read and to edit, and what it has read: lazy arrays by point index.

    Args:
        wanted: by point index, whether it is read.
        edits: what is changed, by point index; in the order in which it is applied.
        stop_before: layer before which the forward pass ends.
    """

    def __init__(
        self,
        wanted: Sequence[bool],
        edits: Mapping[PointIndex, Sequence[RowEdit]] | None = None,
        stop_before: int | None = None,
    ) -> None:
        self.capture_mask = wanted
        self.edits = edits or {}
        self.stop_before = stop_before
        self.captured: dict[PointIndex, mx.array] = {}
        self.key_columns: dict[int, tuple[int, int, int]] = {}
        """By layer, where the columns of its attention lie: positions so far, next slot of the ring, columns."""
        self.residual_override: mx.array | None = None
        """A residual stream that the final norm gets in place of what blocks make; no block runs then."""
        self.override_is_normed = False
        """Whether the shortcut is what the final norm gives, and not what it gets."""
        self.output_positions: slice | mx.array | None = None
        """Positions that go on behind the final norm, where no other's logits are wanted; None: all."""
        self.last_mlp_positions: mx.array | None = None
        """Positions for which alone the last MLP is computed; elsewhere zeros take its place. None: all."""
        self.row_schedule: RowSchedule | None = None
        """Where rows enter; None: all of them at the embedding."""
        self.residual_changes: dict[int, mx.array] = {}
        """By layer, what an edit between attention and MLP adds to what the block writes."""

    @classmethod
    def merge(cls, hook_plans: Sequence[HookPlan | None]) -> HookPlan | None:
        """One hook plan for a batch, of a hook plan for each row in the batch's order; None where no row has one."""
        if len(hook_plans) == 1:
            return hook_plans[0]
        present = [hook_plan for hook_plan in hook_plans if hook_plan is not None]
        if not present:
            return None
        edits: dict[PointIndex, list[RowEdit]] = {}
        for slot, hook_plan in enumerate(hook_plans):
            for point, of_row in (hook_plan.edits if hook_plan is not None else {}).items():
                edits.setdefault(point, []).extend(replace(edit, slot=slot) for edit in of_row)
        return cls(
            [any(wanted) for wanted in zip(*(hook_plan.capture_mask for hook_plan in present), strict=True)], edits
        )

    def apply(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> mx.array:
        """Edits the value, keeps it if the point is wanted, and gives what goes on: itself where nothing was edited."""
        value = self.edit(point, value, view)
        self.capture(point, value, view)
        return value

    def capture(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> None:
        """Keeps the value if the point is wanted."""
        if self.capture_mask[point]:
            handle = new_handle(value)
            self.captured[point] = handle if view is None else view.read(handle)

    def edit(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> mx.array:
        """The value with its edits; itself where there are none."""
        edits = self.edits.get(point)
        if not edits:
            return value
        if view is None:
            return _apply_edits(value, edits)
        if view.write is None:
            raise AssertionError("an edit of a point that cannot be written is refused before it runs")
        return view.write(value, _apply_edits(view.read(value), edits))


def _apply_edits(value: mx.array, edits: Sequence[RowEdit]) -> mx.array:
    count = value.shape[0]
    rows: dict[int, mx.array] = {}
    for edit in edits:
        slot = edit.slot
        row = rows.get(slot)
        if row is None:
            row = value if count == 1 else value[slot : slot + 1]
        padding = 0 if edit.columns is None else row.shape[-1] - edit.columns
        if padding <= 0:
            rows[slot] = edit.apply(row)
        else:
            rows[slot] = mx.concatenate([row[..., :padding], edit.apply(row[..., padding:])], axis=-1)
    if count == 1:
        return rows[0]
    pieces: list[mx.array] = []
    end = 0
    for slot in sorted(rows):
        pieces += [value[end:slot], rows[slot]] if end < slot else [rows[slot]]
        end = slot + 1
    return mx.concatenate([*pieces, value[end:]] if end < count else pieces)


class ActiveHookPlan:
    """Where the hooks of one model find the hook plan of the running forward pass, if there is one."""

    __slots__ = ("hook_plan",)

    def __init__(self) -> None:
        self.hook_plan: HookPlan | None = None

    @contextmanager
    def activate(self, hook_plan: HookPlan | None) -> Generator[HookPlan | None, None, None]:
        """Routes what the model computes inside the block to a hook_plan."""
        self.hook_plan = hook_plan
        try:
            yield hook_plan
        finally:
            self.hook_plan = None


@dataclass(slots=True)
class ModulePoints:
    """What passes at one module: which points its arguments and its result are.

    Args:
        module: the module.
        inputs: (argument, point, layer): the layer is that of a block whose residual stream must follow an edit.
        outputs: (point, view).
        block: the layer whose residual stream this module writes.
    """

    module: nn.Module
    inputs: list[tuple[int, PointIndex, int | None]] = field(default_factory=list)
    outputs: list[tuple[PointIndex, PointView | None]] = field(default_factory=list)
    block: int | None = None
    is_last_mlp: bool = False
    is_final_norm: bool = False


def install(watch: ModulePoints, switch: ActiveHookPlan, around: Callable[[HookPlan], Any] | None = None) -> None:
    """Hooks a module, once and for all; `around` makes a context manager for its call while a hook plan is there."""

    def hook(module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hook_plan = switch.hook_plan
        if hook_plan is None:
            return call(module, *args, **kwargs)
        if hook_plan.residual_override is not None:
            if watch.block is not None:
                return get_argument(args, kwargs, 0)
            if watch.is_final_norm:
                if hook_plan.override_is_normed:
                    return hook_plan.residual_override
                args, kwargs = replace_argument(args, kwargs, 0, hook_plan.residual_override)
            return call(module, *args, **kwargs)
        flow = None if watch.block is None else hook_plan.row_schedule
        if flow is not None and watch.block is not None:
            entered = flow.enter(watch.block, get_argument(args, kwargs, 0))
            args, kwargs = replace_argument(args, kwargs, 0, entered)
        for argument, point, layer in watch.inputs:
            before = get_argument(args, kwargs, argument)
            if not isinstance(before, mx.array):
                continue
            after = hook_plan.apply(point, before)
            if after is not before:
                args, kwargs = replace_argument(args, kwargs, argument, after)
                if layer is not None:
                    hook_plan.residual_changes[layer] = after - before
        tail, positions = hook_plan.last_mlp_positions if watch.is_last_mlp else None, 0
        if tail is not None:
            stream: mx.array = get_argument(args, kwargs, 0)
            positions = stream.shape[1]
            args, kwargs = replace_argument(args, kwargs, 0, stream[:, tail])
        with around(hook_plan) if around is not None else nullcontext():
            if flow is None or watch.block is None:
                result = call(module, *args, **kwargs)
            else:
                result = flow.run(watch.block, partial(call, module), args, kwargs)
        passed = result[0] if isinstance(result, tuple) else result
        if not isinstance(passed, mx.array):
            return result
        value = passed if tail is None else _scatter_positions(passed, tail, positions)
        if watch.block is not None and watch.block in hook_plan.residual_changes:
            value = value + hook_plan.residual_changes[watch.block]
        if flow is not None and watch.block is not None:
            value = flow.leave(watch.block, value)
        for point, view in watch.outputs:
            value = hook_plan.apply(point, value, view)
        if hook_plan.output_positions is not None and watch.is_final_norm:
            value = value[:, hook_plan.output_positions]
        if value is passed:
            return result
        return (value, *result[1:]) if isinstance(result, tuple) else value

    plain = type(watch.module)
    if plain not in _swapped_classes:
        _swapped_classes[plain] = _hooked_class(plain)
    watch.module.__class__ = _swapped_classes[plain]
    object.__setattr__(watch.module, HOOK, hook)


def _scatter_positions(value: mx.array, at: mx.array, positions: int) -> mx.array:
    """What is there at some positions, among zeros at all others."""
    rows, _, width = value.shape
    return mx.zeros((rows, positions, width), value.dtype).at[:, at].add(value)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before any hook."""
    hooked = set(_swapped_classes.values())
    return next(kind for kind in type(module).__mro__ if kind not in hooked)


def get_argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> Any:
    """An argument by its place, however it was passed; None if it was not."""
    if index < len(args):
        return args[index]
    names = list(kwargs)[index - len(args) :]
    return kwargs[names[0]] if names else None


def replace_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], index: int, value: mx.array
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with another value in one place."""
    if index < len(args):
        return (*args[:index], value, *args[index + 1 :]), kwargs
    return args, {**kwargs, list(kwargs)[index - len(args)]: value}


def _hooked_class(plain: type[nn.Module]) -> type[nn.Module]:
    call: Callable[..., Any] = plain.__call__

    def hooked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._neuroscope_hook(self, call, args, kwargs)

    return type(plain.__name__, (plain,), {"__call__": hooked_call, "__module__": plain.__module__})
