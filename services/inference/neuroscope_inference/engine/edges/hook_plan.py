"""Changes what receivers read in all rows of a batch while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope_inference.engine.attributions.graph import Graph, Writing
from neuroscope_inference.engine.attributions.norms import KnownNorm
from neuroscope_inference.engine.attributions.reading import Projection, Reading
from neuroscope_inference.engine.edges.plan import EdgePlan, Written
from neuroscope_inference.engine.edges.sets import Mask
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, PointView
from neuroscope_inference.engine.paths.writing import applied
from neuroscope_inference.engine.position_range import PositionRange


@dataclass(frozen=True, slots=True)
class _Part:
    """A projection of a reading, and the receivers that it makes.

    Args:
        reading: what it belongs to.
        projection: how it reads.
        columns: of its receivers in the graph.
    """

    reading: Reading
    projection: Projection
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
        graph: Graph,
        plans: Sequence[EdgePlan],
        position_range: PositionRange,
        boundaries: Sequence[int],
        places: Sequence[int] | None = None,
    ) -> None:
        super().__init__(wanted, dict.fromkeys([*graph.probed, *graph.compared], ()))
        self._graph, self._positions = graph, slice(position_range.first, position_range.end)
        self._places = None if places is None else mx.array(list(places))
        self._changed: Mask = np.stack([plan.changed for plan in plans])  # (rows, senders, receivers)
        self._boundaries = np.maximum(np.array(boundaries), 0)
        self._written = _written(plans)
        self._differences = self._written.differences[:, self._positions]
        self._parts = {part.projection.point: part for part in _parts(graph)}
        self._writings = {writing.point: (writing, rows) for writing, rows in _writings(graph)}
        self._readings = {part.reading.stream for part in self._parts.values()}
        self._streams: dict[PointIndex, mx.array] = {}
        self._normed: dict[PointIndex, mx.array] = {}
        self._moved_ids: list[int] = []
        """Senders that rows compute anew and that have changed edges in one of them."""
        self._moved: mx.array | None = None
        """What these write in each row less what they write in the edited run (rows, senders, positions, d_model)."""

    def edit(self, point: PointIndex, value: mx.array, view: PointView | None = None) -> mx.array:
        """What goes on: with the changed edges of the receivers that the point is the input of."""
        if point not in self.edits and point not in self._readings:
            return value
        layer = self._graph.layout.states[point].point.layer
        assert layer is not None
        is_end = point == self._graph.readings[-1].stream
        rows = int((self._boundaries <= (layer + 1 if is_end else layer)).sum())
        if not rows:
            return value
        passing = value if view is None else view.read(value)
        if point in self._writings:
            self._sent(*self._writings[point], passing, layer)
        if point in self._readings:
            self._streams[point] = passing
        part = self._parts.get(point)
        if part is None:
            return value
        changed = self._read(part, passing)
        if changed is passing:
            return value
        if view is None:
            return changed
        assert view.write is not None  # proved before anything runs
        return view.write(value, changed)

    def _sent(self, writing: Writing, senders: slice, passing: mx.array, layer: int) -> None:
        """Keeps what senders write, where it is not what they write in the edited run and is wanted."""
        if not senders.start:
            return  # the input is that of the edited run
        rows = int((self._boundaries <= layer).sum())
        heads = np.flatnonzero(self._changed[:rows, senders].any(axis=(0, 2)))
        if not heads.size:
            return
        change = passing - self._written.unedited[writing.point][:, self._positions]
        if writing.matrix is None:
            new = change[:, None]
        else:
            chosen = mx.array(heads)
            new = mx.take(change, chosen, axis=2).swapaxes(1, 2) @ mx.take(writing.matrix(), chosen, axis=0)
        new = new.astype(mx.float32)
        if self._moved is not None:
            kept = mx.pad(self._moved, [(0, rows - self._moved.shape[0]), (0, 0), (0, 0), (0, 0)])
            new = mx.concatenate([kept, new], axis=1)
        self._moved = new
        self._moved_ids += (senders.start + heads).tolist()

    def _read(self, part: _Part, passing: mx.array) -> mx.array:
        """What receivers get in the place of what passes; that itself where none of their edges is changed."""
        rows = passing.shape[0]
        changed = self._changed[:rows, : part.reading.sender_count, part.columns]
        heads, slots = np.nonzero(changed.any(axis=1).T)  # head by head
        if not heads.size:
            return passing
        stream = self._streams[part.reading.stream]
        local = self._places if part.reading is self._graph.readings[-1] else None
        stream = stream if local is None else mx.take(stream, local, axis=1)
        delta = self._delta(changed, heads, slots, local)
        own = (
            stream
            if len(slots) == rows and part.projection.matrix is None
            else mx.take(stream, mx.array(slots), axis=0)
        )
        moved = (own.astype(mx.float32) + delta).astype(stream.dtype)
        if part.projection.matrix is None:
            put = moved if part.reading.norm is None else applied(part.reading.norm, moved)
            return _replaced(passing, put, slots, local)
        change = self._projected_change(part, own, moved, heads, slots)
        return _added(passing, change, heads, slots)

    def _projected_change(
        self, part: _Part, own: mx.array, moved: mx.array, heads: NDArray[np.intp], slots: NDArray[np.intp]
    ) -> mx.array:
        """By how much what receivers get changes (edges, positions, d_head); a known norm is met by its matrix."""
        assert part.projection.matrix is not None
        norm, matrix = part.reading.norm, part.projection.matrix()
        if norm is None:
            return _projected(moved - own, matrix, heads)
        before = KnownNorm.of(norm, self._streams[part.reading.stream])
        after = KnownNorm.of(norm, moved)
        if before is None or after is None:
            return _projected(self._normed_change(part.reading, moved, slots), matrix, heads)
        folded = before.folded(matrix)
        inverse = mx.take(before.inverse, mx.array(slots), axis=0)
        unchanged = _projected(own.astype(mx.float32), folded, heads) * inverse
        return _projected(moved.astype(mx.float32), folded, heads) * after.inverse - unchanged

    def _normed_change(self, reading: Reading, moved: mx.array, slots: NDArray[np.intp]) -> mx.array:
        """By how much the norm's output changes (edges, positions, d_model)."""
        assert reading.norm is not None
        if reading.stream not in self._normed:
            self._normed[reading.stream] = applied(reading.norm, self._streams[reading.stream])
        return applied(reading.norm, moved) - mx.take(self._normed[reading.stream], mx.array(slots), axis=0)

    def _delta(
        self, changed: Mask, heads: NDArray[np.intp], slots: NDArray[np.intp], local: mx.array | None
    ) -> mx.array:
        """By how much the streams of receivers change (receivers of all rows, positions, d_model), float32."""
        senders = np.flatnonzero(changed.any(axis=(0, 2)))
        differences = _taken(self._differences, senders)
        differences = differences if local is None else mx.take(differences, local, axis=1)
        shape = differences.shape[1:]
        edges = mx.array(changed[slots[:, None], senders[None], heads[:, None]].astype(np.float32))
        delta = (edges @ differences.reshape(len(senders), -1)).reshape(-1, *shape)
        ids = [sender for sender in self._moved_ids if sender < changed.shape[1]]  # not those beside a parallel MLP
        anew = changed[:, ids][:, :, np.unique(heads)]  # (rows, senders, receivers)
        if self._moved is None or not anew.any():
            return delta
        rows, moved = self._moved.shape[0], self._moved[:, : len(ids)]
        moved = moved if local is None else mx.take(moved, local, axis=2)
        edges = mx.array(anew[:rows].swapaxes(1, 2).astype(np.float32))
        own = (edges @ moved.reshape(rows, len(ids), -1)).reshape(-1, *shape)
        within = np.searchsorted(np.unique(heads), heads)
        here = slots < rows  # others have just entered
        index = np.where(here, slots * anew.shape[2] + within, 0)
        if here.all():
            return delta - mx.take(own, mx.array(index), axis=0)
        return delta - mx.take(own, mx.array(index), axis=0) * mx.array(here.astype(np.float32))[:, None, None]


def _written(plans: Sequence[EdgePlan]) -> Written:
    found = plans[0].written
    assert found is not None
    assert all(plan.written is found for plan in plans)
    return found


def _parts(graph: Graph) -> list[_Part]:
    found: list[_Part] = []
    first = 0
    for reading in graph.readings:
        for projection in reading.projections:
            count = 1 if projection.matrix is None else graph.heads_of(projection.point)
            found.append(_Part(reading, projection, slice(first, first + count)))
            first += count
    return found


def _writings(graph: Graph) -> list[tuple[Writing, slice]]:
    found: list[tuple[Writing, slice]] = []
    first = 0
    for writing in graph.writings:
        count = 1 if writing.matrix is None else graph.heads_of(writing.point)
        found.append((writing, slice(first, first + count)))
        first += count
    return found


def _taken(array: mx.array, indices: NDArray[np.intp]) -> mx.array:
    """Entries along the first axis; no copy where they follow each other."""
    if indices[-1] - indices[0] + 1 == len(indices):
        return array[int(indices[0]) : int(indices[-1]) + 1]
    return mx.take(array, mx.array(indices), axis=0)


def _projected(moved: mx.array, matrix: mx.array, heads: NDArray[np.intp]) -> mx.array:
    """Each receiver's change through its own head's matrix (receivers, positions, d_head); heads ascend."""
    found, counts = np.unique(heads, return_counts=True)
    if len(set(counts.tolist())) == 1:
        by_head = moved.reshape(len(found), -1, moved.shape[-1])
        projected = by_head @ _taken(matrix, found).swapaxes(1, 2)
        return projected.reshape(*moved.shape[:2], -1)
    ends = np.cumsum(counts)
    parts = [
        moved[int(end - count) : int(end)] @ matrix[int(head)].T
        for head, count, end in zip(found, counts, ends, strict=True)
    ]
    return mx.concatenate(parts)


def _added(passing: mx.array, change: mx.array, heads: NDArray[np.intp], slots: NDArray[np.intp]) -> mx.array:
    """(rows, positions, heads, d_head) with the changes of some heads of some rows."""
    rows, length, count, width = passing.shape
    by_head = passing.swapaxes(1, 2).reshape(rows * count, length, width)
    index = mx.array(slots * count + heads)
    added = by_head.at[index].add(change.astype(passing.dtype))
    return added.reshape(rows, count, length, width).swapaxes(1, 2)


def _replaced(passing: mx.array, put: mx.array, slots: NDArray[np.intp], local: mx.array | None) -> mx.array:
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
