"""Sets of edges as their definition says it: receiver by receiver, with forward passes that hooks edit, on any family.

The input of a receiver is read in a run of its own, whose residual stream before the layer is the one that the receiver
is to read; then it is put there in all later runs. Nothing is taken from the engine but its hooks, and its modules for
what a head writes.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.hook_plan import HookPlan, RowEdit
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.residual_writes import mlp_input_stream, residual_contribution
from tests.support.freezing import hooked, replaced

Mask = NDArray[np.bool_]


def reach(graph: EdgeGraph) -> Mask:
    """Every edge of a graph (senders, receivers)."""
    counts = np.array([receiver.sender_count for receiver in graph.receivers])
    return np.arange(len(graph.senders))[:, None] < counts[None]


def random_sets(graph: EdgeGraph, shares: Sequence[float], seed: int) -> NDArray[np.bool_]:
    """Sets of such shares of the edges (sets, senders, receivers)."""
    random = np.random.default_rng(seed)
    return np.stack([reach(graph) & (random.random(reach(graph).shape) < share) for share in shares])


class EdgeRuns:
    """Runs of a prompt in which edges carry what senders write in another run.

    Args:
        model: any that has a graph.
        edited: tokens of the run that is edited.
        other: tokens of the other one.
    """

    def __init__(self, model: LoadedModel, edited: Sequence[int], other: Sequence[int]) -> None:
        self._model, self._edited = model, edited
        self._graph = EdgeGraph(model.layout)
        self._points = [model.layout.states[point].point for point in self._graph.sender_points]
        _, seen = hooked(model, other, {}, self._points)
        self._other = self._writes(seen)

    def logits(self, changed: Mask) -> NDArray[np.float32]:
        """Of all positions (positions, vocabulary)."""
        layout, column = self._model.layout, 0
        puts: dict[Point, Callable[[mx.array], mx.array]] = {}
        end = Point("resid_post", layout.num_layers - 1)
        named = [(_point(receiver, end), receiver.head) for receiver in self._graph.receivers]
        for point, nodes in groupby(named, key=lambda node: node[0]):
            heads = [head for _, head in nodes]
            columns, column = range(column, column + len(heads)), column + len(heads)
            if not changed[:, columns].any():
                continue
            stream = self._stream_of(point)
            _, seen = hooked(self._model, self._edited, puts, [*self._points, stream])
            writes = self._writes(seen)
            edges = mx.array(changed[: len(writes), columns].T.astype(np.float32))  # (receivers, senders)
            change = (edges @ (self._other - writes).reshape(len(writes), -1)).reshape(len(heads), *writes.shape[1:])
            read = self._read(point, stream, seen[stream] + change)
            if point == end or point.is_input:
                puts[point] = replaced(read)
                continue
            own = [read[row : row + 1, :, head] for row, head in enumerate(heads)]
            chosen = [row for row in range(len(heads)) if changed[:, columns[row]].any()]
            puts[point] = replaced(mx.stack(own, axis=2), heads=chosen)
        found, _ = hooked(self._model, self._edited, puts, [])
        return np.array(found.astype(mx.float32))

    def _stream_of(self, point: Point) -> Point:
        if point.component == "resid_post":
            return point
        assert point.layer is not None
        return mlp_input_stream(self._model.layout, point.layer) if point.is_input else Point("resid_pre", point.layer)

    def _read(self, point: Point, stream: Point, input_: mx.array) -> mx.array:
        """What a point is made of streams (rows, ...)."""
        if point == stream:
            return input_
        layout, network = self._model.layout, cast("Any", self._model.network)
        edits = [RowEdit(replaced(input_[row : row + 1]), slot=row) for row in range(len(input_))]
        hook_plan = HookPlan(layout.capture_mask([layout.index[point]]), {layout.index[stream]: edits})
        with layout.active_hooks.activate(hook_plan):
            network(mx.array([list(self._edited)] * len(input_)), cache=make_prompt_cache(self._model.network))
        return hook_plan.captured[layout.index[point]]

    def _writes(self, seen: Mapping[Point, mx.array]) -> mx.array:
        """What every sender writes (senders, positions, d_model), head by head through the output projection."""
        layout = self._model.layout
        found: list[mx.array] = []
        for point in self._points:
            if point.component != "head_output":
                found.append(seen[point])
                continue
            nothing = residual_contribution(layout, point, mx.zeros_like(seen[point]))
            one_by_one = mx.eye(seen[point].shape[2])[:, None, :, None]
            found.append(residual_contribution(layout, point, seen[point] * one_by_one) - nothing)
        return mx.concatenate(found)


def _point(receiver: object, end: Point) -> Point:
    site = receiver.site  # type: ignore[attr-defined]
    if site.component == "logits":
        return end
    return Point(site.component, site.layer, is_input=site.component == "mlp_out")
