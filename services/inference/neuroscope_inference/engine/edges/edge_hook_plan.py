"""Changes what receivers read in all rows of a batch while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope_inference.engine.attributions.graph import EdgeGraph, SenderGroup
from neuroscope_inference.engine.attributions.norms import ClosedFormNorm
from neuroscope_inference.engine.attributions.receiver_group import ReceiverGroup, ReceiverProjection
from neuroscope_inference.engine.edges.plan import EdgePlan, SenderOutputs
from neuroscope_inference.engine.edges.sets import Mask
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, PointView
from neuroscope_inference.engine.paths.residual_writes import call_module
from neuroscope_inference.engine.position_range import PositionRange


@dataclass(frozen=True, slots=True)
class _ReceiverPart:
    """A projection of a reading, and the receivers that it makes.

    Args:
        reading: what it belongs to.
        projection: how it reads.
        columns: of its receivers in the graph.
    """

    reading: ReceiverGroup
    projection: ReceiverProjection
    columns: slice


class EdgeHookPlan(HookPlan):
    """A hook plan for rows whose edges are changed.

    With o what a sender writes with the value, u what it writes in the edited run and c what it writes in the row, a
    receiver's stream changes by the sum of o - c = (o - u) - (c - u) over its changed edges. The first term is the same
    for all rows, so one product with the rows' edges gives it; the second is zero below the block where a row enters.

    Args:
        wanted: by point index, whether it is read.
        graph: the edges.
        plans: of the rows, in the order of the batch; all have what they ask for, which is the same.
        position_range: the positions of the forward pass.
        boundaries: where the rows enter, ascending.
        places: positions that are read behind the last block, counted from the first one of the pass; None: all.
    """

    def __init__(
        self,
        wanted: Sequence[bool],
        graph: EdgeGraph,
        plans: Sequence[EdgePlan],
        position_range: PositionRange,
        boundaries: Sequence[int],
        places: Sequence[int] | None = None,
    ) -> None:
        super().__init__(wanted, dict.fromkeys([*graph.receiver_points, *graph.sender_points], ()))
        self._graph, self._positions = graph, slice(position_range.first, position_range.end)
        self._places = None if places is None else mx.array(list(places))
        self._changed: Mask = np.stack([plan.changed for plan in plans])  # (rows, senders, receivers)
        self._boundaries = np.maximum(np.array(boundaries), 0)
        self._outputs = _shared_outputs(plans)
        self._differences = self._outputs.differences[:, self._positions]
        self._parts = {part.projection.point: part for part in _receiver_parts(graph)}
        self._sender_groups = {writing.point: (writing, rows) for writing, rows in _sender_slices(graph)}
        self._streams_read = {part.reading.stream for part in self._parts.values()}
        self._streams: dict[PointIndex, mx.array] = {}
        self._normed: dict[PointIndex, mx.array] = {}
        self._recomputed_ids: list[int] = []
        """Senders that rows compute anew and that have changed edges in one of them."""
        self._recomputed: mx.array | None = None
        """What these write in each row less what they write in the edited run (rows, senders, positions, d_model)."""

    def edit(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> mx.array:
        """What goes on: with the changed edges of the receivers that the point is the input of."""
        if point not in self.edits and point not in self._streams_read:
            return value
        layer = self._graph.layout.states[point].point.layer
        assert layer is not None
        is_end = point == self._graph.receiver_groups[-1].stream
        rows = int((self._boundaries <= (layer + 1 if is_end else layer)).sum())
        if not rows:
            return value
        passing = value if view is None else view.read(value)
        if point in self._sender_groups:
            self._record_senders(*self._sender_groups[point], passing, layer)
        if point in self._streams_read:
            self._streams[point] = passing
        part = self._parts.get(point)
        if part is None:
            return value
        changed = self._edit_receivers(part, passing)
        if changed is passing:
            return value
        if view is None:
            return changed
        assert view.write is not None  # proved before anything runs
        return view.write(value, changed)

    def _record_senders(self, writing: SenderGroup, senders: slice, passing: mx.array, layer: int) -> None:
        """Keeps what senders write, where it is not what they write in the edited run and is wanted."""
        if not senders.start:
            return  # the input is that of the edited run
        rows = int((self._boundaries <= layer).sum())
        heads = np.flatnonzero(self._changed[:rows, senders].any(axis=(0, 2)))
        if not heads.size:
            return
        change = passing - self._outputs.unedited[writing.point][:, self._positions]
        if writing.matrix is None:
            new = change[:, None]
        else:
            chosen = mx.array(heads)
            new = mx.take(change, chosen, axis=2).swapaxes(1, 2) @ mx.take(writing.matrix(), chosen, axis=0)
        new = new.astype(mx.float32)
        if self._recomputed is not None:
            kept = mx.pad(self._recomputed, [(0, rows - self._recomputed.shape[0]), (0, 0), (0, 0), (0, 0)])
            new = mx.concatenate([kept, new], axis=1)
        self._recomputed = new
        self._recomputed_ids += (senders.start + heads).tolist()

    def _edit_receivers(self, part: _ReceiverPart, passing: mx.array) -> mx.array:
        """What receivers get in the place of what passes; that itself where none of their edges is changed."""
        rows = passing.shape[0]
        changed = self._changed[:rows, : part.reading.sender_count, part.columns]
        heads, slots = np.nonzero(changed.any(axis=1).T)  # head by head
        if not heads.size:
            return passing
        stream = self._streams[part.reading.stream]
        local = self._places if part.reading is self._graph.receiver_groups[-1] else None
        stream = stream if local is None else mx.take(stream, local, axis=1)
        delta = self._delta(changed, heads, slots, local)
        own = (
            stream
            if len(slots) == rows and part.projection.matrix is None
            else mx.take(stream, mx.array(slots), axis=0)
        )
        moved = (own.astype(mx.float32) + delta).astype(stream.dtype)
        if part.projection.matrix is None:
            put = moved if part.reading.norm is None else call_module(part.reading.norm, moved)
            return _replace_values(passing, put, slots, local)
        change = self._projected_change(part, own, moved, heads, slots)
        return _add_changes(passing, change, heads, slots)

    def _projected_change(
        self, part: _ReceiverPart, own: mx.array, moved: mx.array, heads: NDArray[np.intp], slots: NDArray[np.intp]
    ) -> mx.array:
        """By how much what receivers get changes (edges, positions, d_head); a known norm is met by its matrix."""
        assert part.projection.matrix is not None
        norm, matrix = part.reading.norm, part.projection.matrix()
        if norm is None:
            return _project(moved - own, matrix, heads)
        before = ClosedFormNorm.from_module(norm, self._streams[part.reading.stream])
        after = ClosedFormNorm.from_module(norm, moved)
        if before is None or after is None:
            return _project(self._norm_change(part.reading, moved, slots), matrix, heads)
        folded = before.fold(matrix)
        inverse = mx.take(before.inverse, mx.array(slots), axis=0)
        unchanged = _project(own.astype(mx.float32), folded, heads) * inverse
        return _project(moved.astype(mx.float32), folded, heads) * after.inverse - unchanged

    def _norm_change(self, reading: ReceiverGroup, moved: mx.array, slots: NDArray[np.intp]) -> mx.array:
        """By how much the norm's output changes (edges, positions, d_model)."""
        assert reading.norm is not None
        if reading.stream not in self._normed:
            self._normed[reading.stream] = call_module(reading.norm, self._streams[reading.stream])
        return call_module(reading.norm, moved) - mx.take(self._normed[reading.stream], mx.array(slots), axis=0)

    def _delta(
        self, changed: Mask, heads: NDArray[np.intp], slots: NDArray[np.intp], local: mx.array | None
    ) -> mx.array:
        """By how much the streams of receivers change (receivers of all rows, positions, d_model), float32."""
        senders = np.flatnonzero(changed.any(axis=(0, 2)))
        differences = _take(self._differences, senders)
        differences = differences if local is None else mx.take(differences, local, axis=1)
        shape = differences.shape[1:]
        edges = mx.array(changed[slots[:, None], senders[None], heads[:, None]].astype(np.float32))
        delta = (edges @ differences.reshape(len(senders), -1)).reshape(-1, *shape)
        ids = [
            sender for sender in self._recomputed_ids if sender < changed.shape[1]
        ]  # not those beside a parallel MLP
        anew = changed[:, ids][:, :, np.unique(heads)]  # (rows, senders, receivers)
        if self._recomputed is None or not anew.any():
            return delta
        rows, moved = self._recomputed.shape[0], self._recomputed[:, : len(ids)]
        moved = moved if local is None else mx.take(moved, local, axis=2)
        edges = mx.array(anew[:rows].swapaxes(1, 2).astype(np.float32))
        own = (edges @ moved.reshape(rows, len(ids), -1)).reshape(-1, *shape)
        within = np.searchsorted(np.unique(heads), heads)
        here = slots < rows  # others have just entered
        index = np.where(here, slots * anew.shape[2] + within, 0)
        if here.all():
            return delta - mx.take(own, mx.array(index), axis=0)
        return delta - mx.take(own, mx.array(index), axis=0) * mx.array(here.astype(np.float32))[:, None, None]


def _shared_outputs(plans: Sequence[EdgePlan]) -> SenderOutputs:
    found = plans[0].outputs
    assert found is not None
    assert all(plan.outputs is found for plan in plans)
    return found


def _receiver_parts(graph: EdgeGraph) -> list[_ReceiverPart]:
    found: list[_ReceiverPart] = []
    first = 0
    for reading in graph.receiver_groups:
        for projection in reading.projections:
            count = 1 if projection.matrix is None else graph.head_count(projection.point)
            found.append(_ReceiverPart(reading, projection, slice(first, first + count)))
            first += count
    return found


def _sender_slices(graph: EdgeGraph) -> list[tuple[SenderGroup, slice]]:
    found: list[tuple[SenderGroup, slice]] = []
    first = 0
    for writing in graph.sender_groups:
        count = 1 if writing.matrix is None else graph.head_count(writing.point)
        found.append((writing, slice(first, first + count)))
        first += count
    return found


def _take(array: mx.array, indices: NDArray[np.intp]) -> mx.array:
    """Entries along the first axis; no copy where they follow each other."""
    if indices[-1] - indices[0] + 1 == len(indices):
        return array[int(indices[0]) : int(indices[-1]) + 1]
    return mx.take(array, mx.array(indices), axis=0)


def _project(moved: mx.array, matrix: mx.array, heads: NDArray[np.intp]) -> mx.array:
    """Each receiver's change through its own head's matrix (receivers, positions, d_head); heads ascend."""
    found, counts = np.unique(heads, return_counts=True)
    if len(set(counts.tolist())) == 1:
        by_head = moved.reshape(len(found), -1, moved.shape[-1])
        projected = by_head @ _take(matrix, found).swapaxes(1, 2)
        return projected.reshape(*moved.shape[:2], -1)
    ends = np.cumsum(counts)
    parts = [
        moved[int(end - count) : int(end)] @ matrix[int(head)].T
        for head, count, end in zip(found, counts, ends, strict=True)
    ]
    return mx.concatenate(parts)


def _add_changes(passing: mx.array, change: mx.array, heads: NDArray[np.intp], slots: NDArray[np.intp]) -> mx.array:
    """(rows, positions, heads, d_head) with the changes of some heads of some rows."""
    rows, length, count, width = passing.shape
    by_head = passing.swapaxes(1, 2).reshape(rows * count, length, width)
    index = mx.array(slots * count + heads)
    added = by_head.at[index].add(change.astype(passing.dtype))
    return added.reshape(rows, count, length, width).swapaxes(1, 2)


def _replace_values(passing: mx.array, put: mx.array, slots: NDArray[np.intp], local: mx.array | None) -> mx.array:
    """(rows, positions, d_model) with other values in some rows, at some positions."""
    put = put.astype(passing.dtype)
    if local is None and len(slots) == passing.shape[0]:
        return put
    replaced = mx.array(passing)
    if local is None:
        replaced[mx.array(slots)] = put
    else:
        replaced[mx.array(slots)[:, None], local[None]] = put
    return replaced
