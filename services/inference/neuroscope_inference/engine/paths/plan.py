"""The edits of one path: what its receivers read when the sender's output is another and all between is as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.arrays import new_handle
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.layout import Layout
from neuroscope_inference.engine.paths.nodes import Receiver, Sender
from neuroscope_inference.engine.paths.residual_writes import (
    call_module,
    mlp_contribution,
    mlp_input_stream,
    residual_contribution,
)
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey
from neuroscope_inference.engine.sweeps.pair import Pair


@dataclass(slots=True)
class PathPlan:
    """A path of one pair.

    Args:
        layout: of the model.
        graph: makes what the model's receivers are made of; asked for on the engine's thread.
        pair: whose edited run it is.
        sender: what writes.
        edit: of the sender's output.
        receivers: that the sender reaches, in the order in which they read.
        recomputes_mlps: whether MLPs between are computed anew.
    """

    layout: Layout
    graph: Callable[[], EdgeGraph]
    pair: Pair
    sender: Sender
    edit: EditPlan
    receivers: Sequence[Receiver]
    recomputes_mlps: bool
    _inputs: list[mx.array] = field(default_factory=list[mx.array])
    """Of each receiver, what it gets at all positions, lazy."""
    _outcome: EditResult = field(default_factory=EditResult)

    @property
    def points(self) -> Sequence[Point]:
        """What receivers read."""
        return [receiver.point for receiver in self.receivers]

    @property
    def edits_logits(self) -> bool:
        """Never: the logits' input is."""
        return False

    @property
    def required_activations(self) -> set[ActivationKey]:
        """What the sender's value asks for, and the edited run's own activations along the path."""
        points = [self.sender.point]
        for receiver in self.receivers:
            points += [receiver.stream, receiver.point]
        for layer in self._mlps(self.receivers[-1]):
            points += [mlp_input_stream(self.layout, layer), Point("mlp_contrib", layer)]
        return self.edit.required_activations | {(self.pair.edited_row, self.layout.index[point]) for point in points}

    def provide(self, given: Mapping[ActivationKey, mx.array]) -> None:
        """Makes the inputs of the receivers."""
        self.edit.provide(given)
        seen = {
            point: given[self.pair.edited_row, point]
            for row, point in self.required_activations
            if row == self.pair.edited_row
        }
        position_range = PositionRange(self.pair.edited_row, 0, 0, self.pair.length, self.pair.length)
        sent = seen[self.layout.index[self.sender.point]]
        edits, self._outcome = self.edit.edits_for(position_range)
        edited = sent
        for of_point in edits.values():
            for edit in of_point:
                edited = edit.apply(edited)
        change = self._contribution(edited) - self._contribution(sent)
        followed: set[int] = set()
        for receiver in self.receivers:
            for layer in self._mlps(receiver):
                if layer not in followed:
                    followed.add(layer)
                    change = change + self._mlp_change(layer, change, seen)
            self._inputs.append(self._receiver_input(receiver, change, seen))

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """What the receivers read instead, at their positions."""
        outcome, self._outcome = self._outcome, EditResult()
        found: dict[PointIndex, list[RowEdit]] = {}
        for receiver, value in zip(self.receivers, self._inputs, strict=True):
            chosen = self._positions(receiver.positions, position_range)
            if chosen:
                edit = RowEdit(_replace_part(value, receiver.heads, chosen, position_range.first))
                found.setdefault(self.layout.index[receiver.point], []).append(edit)
        return found, outcome

    def _mlps(self, receiver: Receiver) -> Sequence[int]:
        """Layers of the MLPs between the sender and a receiver, if they are computed anew."""
        if not self.recomputes_mlps:
            return ()
        layers = range(self.layout.num_layers)
        return [
            layer
            for layer in layers
            if self.layout.blocks[layer].mlp is not None
            and self.sender.order < 2 * layer + int(mlp_input_stream(self.layout, layer).component == "resid_mid")
            and 2 * layer + 1 < receiver.order
        ]

    def _contribution(self, value: mx.array) -> mx.array:
        return residual_contribution(self.layout, self.sender.point, value).astype(mx.float32)

    def _mlp_change(self, layer: int, change: mx.array, seen: Mapping[PointIndex, mx.array]) -> mx.array:
        """By how much a changed stream changes what an MLP writes."""
        stream = seen[self.layout.index[mlp_input_stream(self.layout, layer)]]
        unedited = seen[self.layout.index[Point("mlp_contrib", layer)]]
        changed = (stream.astype(mx.float32) + change).astype(stream.dtype)
        return mlp_contribution(self.layout, layer, changed).astype(mx.float32) - unedited.astype(mx.float32)

    def _receiver_input(self, receiver: Receiver, change: mx.array, seen: Mapping[PointIndex, mx.array]) -> mx.array:
        """What the receiver's point is where the stream has changed, in its selected heads."""
        point = self.layout.index[receiver.point]
        reading, part = next(
            (reading, part)
            for reading in self.graph().receiver_groups
            for part in reading.projections
            if part.point == point
        )
        stream, own = seen[reading.stream], seen[point]
        changed = (stream.astype(mx.float32) + change).astype(stream.dtype)
        if part.matrix is None:
            return changed if reading.norm is None else call_module(reading.norm, changed)
        heads = mx.array(list(receiver.heads) or list(range(own.shape[2])))
        moved = (
            changed - stream
            if reading.norm is None
            else call_module(reading.norm, changed) - call_module(reading.norm, stream)
        )
        projected = mx.einsum("btd,hwd->bthw", moved, mx.take(part.matrix(), heads, axis=0))
        return (mx.take(own, heads, axis=2) + projected).astype(own.dtype)

    def _positions(self, positions: Sequence[int], position_range: PositionRange) -> list[int]:
        every = [position % self.pair.length for position in positions] or range(self.pair.length)
        return [position for position in every if position_range.first <= position < position_range.end]


def _replace_part(
    value: mx.array, heads: Sequence[int], positions: Sequence[int], first: int
) -> Callable[[mx.array], mx.array]:
    """Puts a part of a value (1, all positions, ...), which has the selected heads alone, in its place."""

    def put(activation: mx.array) -> mx.array:
        part = mx.take(value, mx.array(list(positions)), axis=1).astype(activation.dtype)
        local = mx.array([position - first for position in positions])
        edited = new_handle(activation)
        if heads:
            edited[:, local[:, None], mx.array(list(heads))] = part
        else:
            edited[:, local] = part
        return edited

    return put
