"""Decode steps of all rows of a model that go on at the same time: one forward pass for a batch of them.

Rows of different requests, with different hooks and samplers, share a batch. A row that may not go on, since its
reader is slow or its credit is spent, leaves the batch with its cache and comes back later. A row that is alone keeps
its own cache, so that its numbers are those of a service with nothing else to do.

Where memory runs short, fewer rows share a batch from then on, until none is left. A step that failed is computed
again: its rows read their prompts and tokens once more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.errors import MLXIntegrationError, ResourceExhaustedError
from neuroscope.tracing import telemetry
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.decode_batch import DecodeBatch
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.engine.row import LaunchedStep, Row


@dataclass(slots=True, eq=False)
class BatchSlot:
    """A row that decodes, and whoever is told of it."""

    row: Row
    may_compute: Callable[[int], bool]
    """Whether a step may be computed."""
    has_room: Callable[[], bool]
    """Whether its results can be taken."""
    deliver: Callable[[StepResult], None]
    fail: Callable[[MLXIntegrationError], None]

    @property
    def is_ready(self) -> bool:
        """Whether there is something to do."""
        return self.has_room() and (bool(self.row.launched_steps) or self.may_launch)

    @property
    def may_launch(self) -> bool:
        """Whether the next step can begin."""
        return self.row.has_next_step and self.may_compute(self.row.next_step)


class Decoder:
    """All decoding rows of one model."""

    def __init__(self, model: LoadedModel) -> None:
        self.slots: list[BatchSlot] = []
        self._model = model
        self._has_rotating_cache = model.has_rotating_cache
        self._batches: dict[Hashable, DecodeBatch] = {}
        self._max_rows: int | None = None
        """Rows of one batch, where memory ran short."""

    @property
    def is_ready(self) -> bool:
        """Whether some row may go on."""
        return any(slot.is_ready for slot in self.slots)

    def step(self) -> None:
        """Launches the next step of every row that may go on, then lands the steps that were launched before.

        A row with a constraint draws its token last: which tokens it may draw depends on the one that has just landed.
        """
        slots = [slot for slot in self.slots if slot.is_ready]
        launched_steps = [(slot, launched) for slot in slots for launched in slot.row.launched_steps]
        groups = self._group([slot for slot in slots if slot.may_launch and self._ensure_cache(slot)])
        for key, group in groups.items():
            self._launch(key, group)
        for slot, launched in launched_steps:
            if launched in slot.row.launched_steps and not slot.row.ended:
                self._finish(slot, launched)
        self._draw_constrained(slots)
        self._enforce_memory_limit(groups.values())
        for slot in slots:
            if slot.row.ended:
                self._cache_prompt(slot.row)
                self.remove(slot)

    def remove(self, slot: BatchSlot) -> None:
        """Forgets a row, which has ended or is given up."""
        slot.row.ended = True
        if slot in self.slots:
            self.slots.remove(slot)
        going = {id(slot.row) for slot in self.slots}
        self._batches = {k: b for k, b in self._batches.items() if any(id(row) in going for row in b.rows)}
        if not self.slots:
            self._max_rows = None

    def _group(self, slots: Sequence[BatchSlot]) -> dict[Hashable, list[BatchSlot]]:
        """What runs together, by the name of its batch; no row is in another batch any more."""
        kinds: defaultdict[Hashable, list[BatchSlot]] = defaultdict(list)
        for slot in slots:
            kinds[self._batch_key(slot.row)].append(slot)
        groups: dict[Hashable, list[BatchSlot]] = {}
        for kind, alike in kinds.items():
            size = self._max_rows or len(alike)
            groups |= {(kind, first): alike[first : first + size] for first in range(0, len(alike), size)}
        names = {id(slot.row): name for name, group in groups.items() for slot in group}
        for name, batch in self._batches.items():
            for row in list(batch.rows):
                if names.get(id(row), name) != name:
                    batch.remove(row)
        return groups

    def _launch(self, name: Hashable, slots: Sequence[BatchSlot]) -> None:
        batch = self._batches.setdefault(name, DecodeBatch(self._model))
        rows, steps = [slot.row for slot in slots], [slot.row.next_step for slot in slots]
        try:
            batch.launch(rows)
        except memory.OutOfMemoryError as error:
            batch.discard()
            for row, step in zip(rows, steps, strict=True):
                row.discard_steps(step)
            self._shrink(slots[0], rows, len(rows), str(error))

    def _draw_constrained(self, slots: Sequence[BatchSlot]) -> None:
        """Draws the tokens that launched steps could not draw yet."""
        arrays: list[mx.array] = []
        for slot in slots:
            try:
                arrays += slot.row.draw_launched()
            except MLXIntegrationError as error:  # the row's own: others go on
                slot.fail(error)
        if arrays:
            mx.async_eval(arrays)

    def _finish(self, slot: BatchSlot, launched: LaunchedStep) -> None:
        """Waits for a step and delivers it."""
        started = time.perf_counter()
        forward = slot.row.forward
        try:
            with telemetry.child_span("decode", forward.context) as recorded:
                with memory.limited(0):
                    mx.eval(launched.arrays)
                result = slot.row.finish(launched)
                recorded.set_attribute(telemetry.STEP, launched.step)
                recorded.set_attribute(telemetry.TOKENS, 1)
                recorded.set_attribute(telemetry.BYTES, result.nbytes)
        except memory.OutOfMemoryError as error:
            batches = [batch for batch in self._batches.values() if slot.row in batch.rows]
            rows = [row for batch in batches for row in batch.discard()] or [slot.row]
            for row in rows:
                row.discard_steps(row.launched_steps[0].step if row.launched_steps else row.next_step)
            self._shrink(slot, rows, launched.row_count, str(error))
        except MLXIntegrationError as error:  # the row's own: others go on
            slot.fail(error)
        else:
            forward.timing.decode_s += time.perf_counter() - started
            slot.deliver(result)

    def _shrink(self, slot: BatchSlot, rows: Sequence[Row], row_count: int, reason: str) -> None:
        """Fewer rows a batch after a step of so many that failed; a row that was alone has failed with it."""
        mx.clear_cache()
        if row_count == 1:
            slot.fail(_out_of_memory(slot.row, reason))
        else:
            self._halve_batches(rows, row_count, reason)

    def _halve_batches(self, rows: Sequence[Row], row_count: int, reason: str) -> None:
        self._max_rows = max(1, row_count // 2)
        for row in rows:
            row.forward.memory_warning = (
                f"memory ran short at step {row.next_step} of prompt {row.index} ({reason}): "
                f"at most {self._max_rows} rows have shared a decode step since"
            )

    def _enforce_memory_limit(self, groups: Iterable[Sequence[BatchSlot]]) -> None:
        """Fewer rows a batch from now on where MLX holds more than the settings allow."""
        for slots in groups:
            rows = [slot.row for slot in slots]
            if len(rows) > 1 and (excess := memory.excess(rows[0].forward.memory_limit_bytes)):
                self._halve_batches(rows, len(rows), excess)

    def _ensure_cache(self, slot: BatchSlot) -> bool:
        """Gives a row that lost its cache a new one; where memory does not hold it, the row fails."""
        if not slot.row.has_lost_cache:
            return True
        try:
            with memory.limited(0):
                slot.row.recompute_cache()
        except memory.OutOfMemoryError as error:
            slot.fail(_out_of_memory(slot.row, str(error)))
            return False
        return True

    def _cache_prompt(self, row: Row) -> None:
        """Lets later prompts begin where this row ended."""
        tokens = row.cached_tokens()
        if not self._model.prompt_cache.is_enabled or tokens is None:
            return
        for batch in self._batches.values():
            if row in batch.rows:
                batch.remove(row)
        if row.cache is not None:
            self._model.prompt_cache.insert(tokens, row.cache)

    def _batch_key(self, row: Row) -> Hashable:
        """Rows of one kind share a batch."""
        forward = row.forward
        edits_attention = forward.steering.plan_at(row.next_step).edits_attention
        if not self._model.capabilities.can_batch or forward.quantization is not None:
            return id(row)
        if self._has_rotating_cache and (edits_attention or forward.plan.captures_attention):
            return id(row)  # in a ring that rows share, a column is another position in each
        return "attention step by step" if edits_attention else "attention by its kernel"


def _out_of_memory(row: Row, reason: str) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"memory does not hold step {row.next_step} of prompt {row.index}: {reason}; capture less, or wait for other "
        "requests to end"
    )
