"""Rows that decode together: their caches as one, and the graph of their next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from neuroscope_inference.engine import caches, memory
from neuroscope_inference.engine.hook_plan import HookPlan
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.row import Row


class DecodeBatch:
    """Rows of one model. Two or more share one cache; a single one keeps its own."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._rows: list[Row] = []
        self._cache: caches.Cache | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows of the last step, in the order of the cache."""
        return self._rows

    def launch(self, rows: Sequence[Row]) -> None:
        """Builds the next step of these rows and starts it.

        Raises:
            OutOfMemoryError: it takes more memory than there is; `dissolve` is all that is left to do.
        """
        self._compose(rows)
        with memory.limited(0):
            mx.async_eval(self._build_step())

    def remove(self, row: Row) -> None:
        """Gives a row its own cache, before it goes on elsewhere or ends."""
        self._retain([other for other in self._rows if other is not row], gone=[row])

    def discard(self) -> list[Row]:
        """Forgets the rows and their cache after a step that failed; gives the rows, each of which has lost its own."""
        rows, self._rows, self._cache = self._rows, [], None
        return rows

    def _build_step(self) -> list[mx.array]:
        """The graph of one step, built; all that is to be evaluated."""
        rows = self._rows
        position_ranges = [row.next_range() for row in rows]
        undo = [[*row.forward.plan.checkpoints(row.index)] for row in rows]
        hook_plans, outcomes = zip(
            *(row.forward.hook_plan(position_range) for row, position_range in zip(rows, position_ranges, strict=True)),
            strict=True,
        )
        hook_plan = HookPlan.merge(hook_plans)
        tokens = mx.concatenate([row.last.token for row in rows])[:, None]
        call: Any = self._model.network
        with self._model.layout.active_hooks.activate(hook_plan):
            logits: mx.array = call(tokens, cache=_own_cache(rows[0]) if self._cache is None else self._cache)
        arrays: list[mx.array] = []
        for slot, (row, position_range) in enumerate(zip(rows, position_ranges, strict=True)):
            own = logits[slot : slot + 1]
            pending = row.forward.collect(hook_plan, position_range, None if self._cache is None else slot, own)
            arrays += row.launch(pending, own[:, -1], outcomes[slot], len(rows), undo[slot]).arrays
        return arrays

    def _compose(self, rows: Sequence[Row]) -> None:
        """Makes these rows the batch; those that leave take their caches with them."""
        wanted = {id(row) for row in rows}
        staying = [row for row in self._rows if id(row) in wanted]
        leaving = [row for row in self._rows if id(row) not in wanted and not row.ended]
        if len(staying) < len(self._rows):
            self._retain(staying, gone=leaving)
        present = {id(row) for row in staying}
        joining = [row for row in rows if id(row) not in present]
        if not joining:
            return
        self._rows = staying + joining
        if self._cache is not None:
            caches.extend(self._cache, caches.merge([_own_cache(row) for row in joining]))
        elif len(self._rows) > 1:
            self._cache = caches.merge([_own_cache(row) for row in self._rows])
        else:
            return
        for row in self._rows:
            row.cache = None

    def _retain(self, rows: list[Row], gone: Sequence[Row]) -> None:
        """Drops all other rows; of those that are gone but go on, and of a last one, the caches are their own again."""
        if self._cache is not None:
            for row in [*gone, *rows] if len(rows) == 1 else gone:
                row.cache = caches.extract(self._cache, self._rows.index(row))
            if len(rows) > 1:
                caches.keep_rows(self._cache, [self._rows.index(row) for row in rows])
            else:
                self._cache = None
        self._rows = rows


def _own_cache(row: Row) -> caches.Cache:
    if row.cache is None:
        raise AssertionError("a row has its cache while it is in no batch")
    return row.cache
