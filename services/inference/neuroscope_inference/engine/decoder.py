"""Decode steps of all rows of a model that go on at the same time: one forward pass for a batch of them.

Rows of different requests, with different hooks and samplers, share a batch. A row that may not go on, since its
reader is slow or its credit is spent, leaves the batch with its cache and comes back later. A row that is alone keeps
its own cache, so that its numbers are those of a service with nothing else to do.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from neuroscope import telemetry
from neuroscope.errors import MLXIntegrationError
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.reads import StepResult
from neuroscope_inference.engine.row import Flight, Row
from neuroscope_inference.engine.tap import Tap


@dataclass(slots=True, eq=False)
class Seat:
    """A row that decodes, and whoever is told of it."""

    row: Row
    may_go_on: Callable[[int], bool]
    """Whether a step may be computed."""
    has_room: Callable[[], bool]
    """Whether its results can be taken."""
    deliver: Callable[[StepResult], None]
    fail: Callable[[MLXIntegrationError], None]

    @property
    def is_ready(self) -> bool:
        """Whether there is something to do."""
        return self.has_room() and (self.row.launched is not None or self.may_launch)

    @property
    def may_launch(self) -> bool:
        """Whether the next step can begin."""
        return self.row.wants_more and self.may_go_on(self.row.next_step)


class Batch:
    """Rows whose caches are one."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._rows: list[Row] = []
        self._cache: caches.Cache | None = None  # of two rows or more

    def launch(self, rows: Sequence[Row]) -> None:
        """Builds the next step of these rows and starts it."""
        rows = self._compose(rows)
        spans = [row.next_span() for row in rows]
        taps, outcomes = zip(*(row.forward.tap(span) for row, span in zip(rows, spans, strict=True)), strict=True)
        tap = Tap.together(taps)
        tokens = mx.concatenate([row.last.token for row in rows])[:, None]
        call: Any = self._model.network
        with self._model.layout.switch.reading(tap):
            logits: mx.array = call(tokens, cache=_own(rows[0]) if self._cache is None else self._cache)
        arrays: list[mx.array] = []
        for slot, (row, span, outcome) in enumerate(zip(rows, spans, outcomes, strict=True)):
            pending = row.forward.take(tap, span, None if self._cache is None else slot)
            draw = row.sampler.draw(logits[slot : slot + 1, -1], row.index, span.step)
            arrays += row.launch(pending, draw, outcome).arrays
        mx.async_eval(arrays)

    @property
    def rows(self) -> list[Row]:
        """The rows of the last step."""
        return self._rows

    def give_back(self, row: Row) -> None:
        """Gives a row its own cache, before it goes on elsewhere or ends."""
        if self._cache is not None and row.cache is None:
            row.cache = caches.extract(self._cache, self._rows.index(row))

    def _compose(self, rows: Sequence[Row]) -> list[Row]:
        """Makes these rows the batch; those that leave take their caches with them. Gives the order of the batch."""
        wanted = {id(row) for row in rows}
        if len(rows) == len(self._rows) and all(id(row) in wanted for row in self._rows):
            return self._rows
        if self._cache is not None:
            for slot, row in enumerate(self._rows):
                leaves = id(row) not in wanted or len(rows) == 1
                if leaves and row.cache is None and not row.ended:
                    row.cache = caches.extract(self._cache, slot)
        staying = [slot for slot, row in enumerate(self._rows) if id(row) in wanted]
        if len(rows) == 1:
            self._rows, self._cache = list(rows), None
            return self._rows
        if self._cache is None or not staying:
            self._rows, self._cache = list(rows), caches.merge([_own(row) for row in rows])
        else:
            if len(staying) < len(self._rows):
                caches.keep(self._cache, staying)
            stayed = [self._rows[slot] for slot in staying]
            present = {id(row) for row in stayed}
            joining = [row for row in rows if id(row) not in present]
            if joining:
                caches.extend(self._cache, caches.merge([_own(row) for row in joining]))
            self._rows = stayed + joining
        for row in self._rows:
            row.cache = None
        return self._rows


def _own(row: Row) -> caches.Cache:
    if row.cache is None:
        raise AssertionError("a row has its cache while it is in no batch")
    return row.cache


class Decoder:
    """All decoding rows of one model."""

    def __init__(self, model: LoadedModel) -> None:
        self.seats: list[Seat] = []
        self._model = model
        self._rotates = model.rotates
        self._batches: dict[Hashable, Batch] = {}

    @property
    def is_ready(self) -> bool:
        """Whether some row may go on."""
        return any(seat.is_ready for seat in self.seats)

    def turn(self) -> None:
        """Launches the next step of every row that may go on, then lands the steps that were launched before."""
        seats = [seat for seat in self.seats if seat.is_ready]
        flights = [(seat, seat.row.take_off()) for seat in seats]
        kinds: defaultdict[Hashable, list[Row]] = defaultdict(list)
        for seat in seats:
            if seat.may_launch:
                kinds[self._kind(seat.row)].append(seat.row)
        for kind, batch in self._batches.items():
            for row in batch.rows:  # one that was steered may be of another kind now
                if not row.ended and self._kind(row) != kind:
                    batch.give_back(row)
        for kind, rows in kinds.items():
            if kind not in self._batches:
                self._batches[kind] = Batch(self._model)
            self._batches[kind].launch(rows)
        for seat, flight in flights:
            if flight is not None and not seat.row.ended:
                try:
                    _land(seat, flight)
                except MLXIntegrationError as error:  # the row's own: others go on
                    seat.fail(error)
        for seat in seats:
            if seat.row.ended:
                self._keep_prompt(seat.row)
                self.leave(seat)

    def _keep_prompt(self, row: Row) -> None:
        """Lets later prompts begin where this row ended."""
        tokens = row.read_tokens()
        if not self._model.prompts.keeps or tokens is None:
            return
        for batch in self._batches.values():
            if row in batch.rows:
                batch.give_back(row)
        self._model.prompts.keep(tokens, _own(row))

    def leave(self, seat: Seat) -> None:
        """Forgets a row, which has ended or is given up."""
        seat.row.ended = True
        if seat in self.seats:
            self.seats.remove(seat)
        present = {self._kind(seat.row) for seat in self.seats}
        self._batches = {kind: batch for kind, batch in self._batches.items() if kind in present}

    def _kind(self, row: Row) -> Hashable:
        """Rows of one kind share a batch."""
        edits_attention = row.forward.steering.of(row.next_step).edits_attention
        if not self._model.can_batch() or (self._rotates and (edits_attention or row.forward.plan.reads_attention)):
            return id(row)  # in a ring that rows share, a column is another position in each
        return "attention step by step" if edits_attention else "attention by its kernel"


def _land(seat: Seat, flight: Flight) -> None:
    """Waits for a step and delivers it."""
    started = time.perf_counter()
    forward = seat.row.forward
    with telemetry.part("decode", forward.context) as recorded:
        mx.eval(flight.arrays)
        result = seat.row.land(flight)
        recorded.set_attribute(telemetry.STEP, flight.step)
        recorded.set_attribute(telemetry.TOKENS, 1)
        recorded.set_attribute(telemetry.BYTES, result.nbytes)
    forward.timing.decode_s += time.perf_counter() - started
    seat.deliver(result)
