"""Gradients of the metric at many points, from one backward pass through the model's own modules.

Zeros are added to what passes at a point; the gradient by these zeros is the gradient by the activation. The forward
pass computes what it would compute without them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, PointView
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.output_reader import OutputReader

Score = Callable[[mx.array], mx.array]
"""(end of the rows (rows, places, width)) -> the metric of each row (rows,)."""


_MLP_INTERNALS = ("mlp_neurons", "router_logits", "expert_indices", "expert_weights")


class AddingHookPlan(HookPlan):
    """A hook plan that adds to what passes, in all rows of the batch at once.

    Args:
        wanted: by point index, whether it is read.
        added: by point index, what is added to the point (rows, ...).
    """

    def __init__(self, wanted: Sequence[bool], added: Mapping[PointIndex, mx.array]) -> None:
        super().__init__(wanted, dict.fromkeys(added, ()))
        self._added = added
        self.reached: set[PointIndex] = set()
        """Points at which something was added."""

    def edit(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> mx.array:
        """The value with what is added to it; itself where nothing is."""
        added = self._added.get(point)
        if added is None:
            return value
        self.reached.add(point)
        if view is None:
            return value + added
        if view.write is None:
            raise AssertionError("a gradient at a point that cannot be written is refused before it runs")
        return view.write(value, view.read(value) + added)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one forward pass of a batch left, evaluated.

    Args:
        end: at the metric's positions (rows, places, width).
        seen: activations (rows, ...), by point.
        gradients: of the metric by the activations, by point; empty without a backward pass.
    """

    output: mx.array
    activations: Mapping[PointIndex, mx.array]
    gradients: Mapping[PointIndex, mx.array]


@dataclass(frozen=True, slots=True)
class GradientPasses:
    """Forward and backward passes of batches of equally long prompts, the whole prompt at a time and without caches.

    Args:
        model: what runs.
        reader: of the ends.
        places: positions of the ends, ascending, in prompts of so many tokens.
        cuts_last_mlp: computes the last MLP for these positions alone, where nothing inside it is read or probed: what
            it would write at others reaches no end.
    """

    model: LoadedModel
    reader: OutputReader
    positions: Callable[[int], Sequence[int]]
    cuts_last_mlp: bool = False

    def forward(
        self,
        tokens: mx.array,
        reads: Sequence[PointIndex],
        added: Mapping[PointIndex, mx.array] | None = None,
    ) -> PassResult:
        """A forward pass alone.

        Args:
            tokens: (rows, positions).
            reads: points whose activations are wanted.
            added: what is added to points.

        Raises:
            OutOfMemoryError: it takes more memory than there is.
        """
        with memory.limited(0):
            end, seen = self._run(tokens, reads, added or {})
            mx.eval(end, seen)
        return PassResult(end, seen, {})

    def backward(
        self,
        tokens: mx.array,
        score: Score,
        reads: Sequence[PointIndex],
        probed: Sequence[PointIndex],
        added: Mapping[PointIndex, mx.array] | None = None,
    ) -> PassResult:
        """A forward pass and the gradients at points. Rows do not see each other, so one sum of metrics serves all.

        Args:
            tokens: (rows, positions).
            score: of the ends.
            reads: points whose activations are wanted.
            probed: points whose gradients are wanted.
            added: what is added to points.

        Raises:
            OutOfMemoryError: it takes more memory than there is.
        """
        rows, length = tokens.shape
        constant = added or {}

        def total(zeros: dict[PointIndex, mx.array]) -> tuple[mx.array, mx.array, dict[PointIndex, mx.array]]:
            together = zeros | {
                point: zeros[point] + shift if point in zeros else shift for point, shift in constant.items()
            }
            end, seen = self._run(tokens, reads, together)
            return score(end).sum(), end, seen

        zeros = {point: self._zeros(point, rows, length) for point in probed}
        taken: Any = mx.value_and_grad(total)
        with memory.limited(0):
            (_, end, seen), gradients = taken(zeros)
            mx.eval(end, seen, gradients)
        return PassResult(end, seen, gradients)

    def _run(
        self, tokens: mx.array, reads: Sequence[PointIndex], added: Mapping[PointIndex, mx.array]
    ) -> tuple[mx.array, dict[PointIndex, mx.array]]:
        layout = self.model.layout
        places = self.positions(tokens.shape[1])
        hook_plan = AddingHookPlan(layout.capture_mask([*reads, *self.reader.points]), added)
        take = self.reader.prepare(hook_plan, places, edits_logits=False)
        if self.cuts_last_mlp and not any(self._is_in_last_mlp(point) for point in (*reads, *added)):
            hook_plan.last_mlp_positions = mx.array(list(places))
        call: Any = self.model.network
        with layout.active_hooks.activate(hook_plan):
            logits: mx.array = call(tokens)
        if missed := [str(layout.states[point].point) for point in added if point not in hook_plan.reached]:
            raise AssertionError(f"nothing passed at {', '.join(missed)}")
        return take(logits), {point: hook_plan.captured[point] for point in reads}

    def _is_in_last_mlp(self, point: PointIndex) -> bool:
        where = self.model.layout.states[point].point
        return where.layer == self.model.layout.num_layers - 1 and where.component in _MLP_INTERNALS

    def _zeros(self, point: PointIndex, rows: int, length: int) -> mx.array:
        state = self.model.layout.states[point]
        extents = {tensor_pb2.AXIS_BATCH: rows, tensor_pb2.AXIS_POSITION: length, tensor_pb2.AXIS_KEY_POSITION: length}
        axes = COMPONENTS[state.point.component].axes
        shape = [extents.get(axis, extent) for axis, extent in zip(axes, state.axes_extents, strict=True)]
        return mx.zeros(shape, state.dtype)
