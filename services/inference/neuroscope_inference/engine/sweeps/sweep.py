"""A sweep: its patches planned and run, submission by submission."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from neuroscope.errors import InvalidRequestError, ResourceExhaustedError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.memory import OutOfMemoryError
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey
from neuroscope_inference.engine.sweeps.cells import Cells
from neuroscope_inference.engine.sweeps.corruption import Corruptions
from neuroscope_inference.engine.sweeps.fastest_method import fastest_method
from neuroscope_inference.engine.sweeps.generation import SweepGeneration
from neuroscope_inference.engine.sweeps.method import SweepMethod
from neuroscope_inference.engine.sweeps.metrics import Metric
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.pair import RUNS, Pair
from neuroscope_inference.engine.sweeps.pair_runner import PairPreparer, PairRunner
from neuroscope_inference.engine.sweeps.pairs import pair_tokens
from neuroscope_inference.engine.sweeps.patch import Patch
from neuroscope_inference.engine.sweeps.patch_batches import (
    BatchLimits,
    Costs,
    PatchBatch,
    Throughput,
    halve,
    plan_batches,
    single_batches,
)
from neuroscope_inference.engine.sweeps.reference_activations import ReferenceActivations
from neuroscope_inference.engine.sweeps.single_run import run

BATCH_S = 1.0
"""No submission is estimated to take longer, so that others have their turn and a cancelled sweep ends soon."""
_FIRST_BATCH_S = 0.15

Event: TypeAlias = "pb.RunSweepResponse | None"
"""None: nothing to send, but others may have their turn."""


@dataclass(slots=True)
class Sweep:
    """A checked request.

    Args:
        model: what runs.
        pairs: the prompts.
        cells: each with the number of its first cell in the request.
        metric: how runs are scored.
        asked: the way that the request asks for, if it does.
        done: patches that are not run.
        batch_bytes: memory of the rows that run together.
        max_patches: a sweep of more is refused.
        max_seconds: one that is estimated to take longer is refused; 0: no limit.
        corruptions: edits of corrupted runs.
        warnings: of the prompts.
        continuation: how runs go on; None: they end with the prompt.
    """

    model: LoadedModel
    pairs: Sequence[Pair]
    cells: Sequence[tuple[int, Cells]]
    metric: Metric
    requested_method: pb.SweepMethod.ValueType
    done: frozenset[int]
    batch_bytes: int
    max_patches: int
    max_seconds: float
    corruptions: Corruptions
    warnings: Sequence[str] = ()
    generation: SweepGeneration | None = None
    _required_activations: set[ActivationKey] = field(default_factory=set[ActivationKey])

    @property
    def cell_count(self) -> int:
        """Cells of all grids, and single ones."""
        return sum(cells.count for _, cells in self.cells)

    @property
    def patch_count(self) -> int:
        """Patches that are to run."""
        return len(self.pairs) * self.cell_count - len(self.done)

    def check(self) -> None:
        """Refuses what does not fit, before anything runs.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError
        """
        seen: set[tuple[int, ...]] = set()
        for pair in self.pairs:
            corruption = self.corruptions.checked_plan(pair)
            self._required_activations |= set() if corruption is None else corruption.required_activations
            alike = (*pair.lengths, int(pair.corrupted is None))
            if alike in seen:
                continue
            seen.add(alike)
            for _, cells in self.cells:
                for plan in cells.sample_plans(pair):
                    self._required_activations |= plan.required_activations

    def run(self) -> Iterator[Event]:
        """What is sent; for the engine's thread.

        Raises:
            ResourceExhaustedError: it is larger than its limits, or memory does not hold one patch.
            UnavailableSiteError: the model does not lend itself to what is swept.
            InvalidRequestError: the model does not lend itself to the way that was asked for.
            DataConversionError: an edit made numbers that are not finite.
        """
        if self.patch_count > self.max_patches:
            raise self._too_many()
        for _, cells in self.cells:
            cells.check_supported()
        method = self._method()
        references = ReferenceActivations(self.model, self.pairs[0].references, self._required_activations)
        yield from references.gather()
        preparation = PairPreparer(
            self.model, self.metric, method, references, self._required_activations, self.corruptions, self.generation
        )
        pace: Throughput | None = None
        done = most_rows = 0
        started = time.perf_counter()
        forward_s: list[float] = []
        total = 0.0
        for pair in self.pairs:
            prepared = self._prepare(preparation, pair)
            yield None
            forward_s.append(prepared.seconds)
            costs = self._costs(pair)
            pace = pace or Throughput(prepared.seconds / costs.plain(pair.length))
            if pair is self.pairs[0]:
                submissions = list(self._batches(prepared, costs, pace, is_first=True))
                total = self._total_work(submissions)
                yield self._plan(method, submissions, pace.seconds_for(total), prepared.seconds)
                started = time.perf_counter()
            yield pb.RunSweepResponse(baseline=prepared.baseline)
            for submission in self._batches(prepared, costs, pace, is_first=not done):
                began = time.perf_counter()
                submitted = list(_run_batch(prepared, submission))
                pace.add(submission.work, time.perf_counter() - began)
                for values in submitted:
                    done += len(values.patches)
                    most_rows = max(most_rows, len(values.patches))
                    yield pb.RunSweepResponse(values=values)
                yield pb.RunSweepResponse(
                    progress=pb.SweepProgress(
                        patches_done=done,
                        patch_count=self.patch_count,
                        elapsed_seconds=time.perf_counter() - started,
                        remaining_seconds=pace.seconds_for(max(total - pace.work, 0)),
                    )
                )
        elapsed = time.perf_counter() - started
        passes = elapsed / (sum(forward_s) / len(forward_s))
        yield pb.RunSweepResponse(
            end=pb.SweepEnd(patches_done=done, elapsed_seconds=elapsed, forward_passes=passes, most_rows=most_rows)
        )

    def _costs(self, pair: Pair) -> Costs:
        new_tokens = 0 if self.generation is None else self.generation.sampler.max_tokens
        return Costs(self.model, len(self.metric.places(pair.length)), pair.length, new_tokens)

    def _method(self) -> SweepMethod:
        """How patches run.

        Raises:
            InvalidRequestError: the request asks for a way that the model does not lend itself to.
        """
        proven = (
            SweepMethod(pb.SWEEP_METHOD_PLAIN)
            if self.requested_method == pb.SWEEP_METHOD_PLAIN
            else fastest_method(self.model)
        )
        if self.requested_method == pb.SWEEP_METHOD_UNSPECIFIED or self.requested_method == proven.kind:
            return proven
        if self.requested_method > proven.kind:
            raise InvalidRequestError(
                f"sweeps of {self.model.description.model_id} cannot be run like that: {proven.reason}", field="method"
            )
        return SweepMethod(self.requested_method)

    def _prepare(self, preparation: PairPreparer, pair: Pair) -> PairRunner:
        try:
            return preparation.prepare(pair)
        except OutOfMemoryError as error:
            raise ResourceExhaustedError(
                f"memory does not hold the unedited runs of pair {pair.index}: {error}", field=f"pairs[{pair.index}]"
            ) from None

    def _batches(self, prepared: PairRunner, costs: Costs, pace: Throughput, *, is_first: bool) -> Iterator[PatchBatch]:
        patches = list(self._patches(prepared.pair))
        if prepared.base is None:
            return single_batches(patches, costs, prepared.pair.length)
        first_s = _FIRST_BATCH_S if is_first else BATCH_S
        limits = BatchLimits(self.batch_bytes, pace, BATCH_S, first_s)
        end = prepared.reference.places[-1] + 1
        return plan_batches(patches, costs, end, limits, reuses_positions=prepared.method.reuses_positions)

    def _patches(self, pair: Pair) -> Iterator[Patch]:
        for first_cell, cells in self.cells:
            for cell in range(cells.count):
                number = pair.index * self.cell_count + first_cell + cell
                if number not in self.done:
                    extent = self.corruptions.extent(cells.extent(cell, pair), pair)
                    yield Patch(number, pair, cells, cell, extent, cells.batch_key(cell, pair))

    def _total_work(self, submissions: Sequence[PatchBatch]) -> float:
        """Of all pairs, from that of the first."""
        first = sum(submission.work for submission in submissions)
        patches = sum(len(submission.patches) for submission in submissions)
        lengths = sum(pair.length for pair in self.pairs) / (self.pairs[0].length * len(self.pairs))
        return first if not patches else first / patches * self.patch_count * lengths

    def _plan(
        self, method: SweepMethod, submissions: Sequence[PatchBatch], seconds: float, forward_s: float
    ) -> pb.RunSweepResponse:
        """What is sent before anything else.

        Raises:
            ResourceExhaustedError: it will take longer than it may.
        """
        if self.max_seconds and seconds > self.max_seconds:
            raise ResourceExhaustedError(
                f"{self.patch_count} patches are estimated to take {seconds:.1f} s, {seconds / forward_s:.0f} times a "
                f"forward pass, and max_seconds allows {self.max_seconds:g}",
                field="limits.max_seconds",
            )
        return pb.RunSweepResponse(
            plan=pb.SweepPlan(
                model_id=self.model.description.model_id,
                cell_count=self.cell_count,
                grids=[cells.shape(first_cell) for first_cell, cells in self.cells],
                edited_run=RUNS[self.pairs[0].edited_row],
                method=method.kind,
                reason=method.reason,
                patch_count=self.patch_count,
                forward_passes=seconds / forward_s,
                seconds=seconds,
                batch_bytes=max((submission.nbytes for submission in submissions), default=0),
                pairs=[pair_tokens(pair, self.metric) for pair in self.pairs],
                warnings=self.warnings,
            )
        )

    def _too_many(self) -> ResourceExhaustedError:
        """The refusal of a sweep that is too large, with what it would cost: a forward pass is timed for it."""
        pair = self.pairs[0]
        costs = self._costs(pair)
        reader = OutputReader(self.model.layout, self.model.capabilities.can_cut, self.metric.reads_stream)
        cache = caches.new_cache(self.model.network)
        places = self.metric.places(pair.length)
        seconds = run(self.model, reader, pair.edited, pair.edited_row, places, cache).seconds
        pace = Throughput(seconds / costs.plain(pair.length))
        # Of a sample: patches that are spread evenly over the first pair's.
        stride = max(1, self.cell_count // 1000)
        count, work = 0, 0.0
        for first_cell, cells in self.cells:
            for cell in range(-first_cell % stride, cells.count, stride):
                extent = cells.extent(cell, pair)
                work += costs.row(extent, pair.length - extent.first)
                count += 1
        estimate = pace.seconds_for(work / max(count, 1) * self.patch_count)
        nbytes = min(self.batch_bytes, costs.nbytes(pair.length, pair.length) * self.patch_count)
        return ResourceExhaustedError(
            f"{self.patch_count} patches ({self.cell_count} cells, {len(self.pairs)} pairs) are more than the "
            f"{self.max_patches} that are allowed; they would take about {estimate:.0f} s, as long as "
            f"{estimate / seconds:.0f} forward passes, and {nbytes / 1e6:.0f} MB for the rows that run together",
            field="limits.max_patches",
        )


def _run_batch(prepared: PairRunner, submission: PatchBatch) -> Iterator[pb.SweepValues]:
    """Values of patches; where memory runs short, those of two smaller submissions.

    Raises:
        ResourceExhaustedError: memory does not hold one patch.
    """
    reason = ""
    found = None
    try:
        values = prepared.values(submission.patches, submission.first)
        texts = prepared.texts(submission.patches)
        numbers = [patch.number for patch in submission.patches]
        found = pb.SweepValues(patches=numbers, values=values.tolist(), texts=texts)
    except OutOfMemoryError as error:
        reason = str(error)
    if found is not None:
        yield found
        return
    smaller = halve(submission)
    if not smaller:
        number = submission.patches[0].number
        raise ResourceExhaustedError(f"memory does not hold patch {number}: {reason}; wait for other requests to end")
    for half in smaller:
        yield from _run_batch(prepared, half)
