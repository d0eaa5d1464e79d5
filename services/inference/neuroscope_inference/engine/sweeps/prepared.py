"""A pair whose unedited runs have been made: what its patches begin with, and what they are scored against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine import caches
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.baseline import check_baseline
from neuroscope_inference.engine.sweeps.batch import Row, UneditedRun, run_batch
from neuroscope_inference.engine.sweeps.continuation import Continuation, ContinuedEdits
from neuroscope_inference.engine.sweeps.corruption import ChainedEdits, Corruptions
from neuroscope_inference.engine.sweeps.end import EndReader
from neuroscope_inference.engine.sweeps.method import Method
from neuroscope_inference.engine.sweeps.metrics import Metric, Reference
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Pair
from neuroscope_inference.engine.sweeps.patch import Patch
from neuroscope_inference.engine.sweeps.plan import Asked, Plan
from neuroscope_inference.engine.sweeps.prefix import WholeCache, whole_caches
from neuroscope_inference.engine.sweeps.proof import streams_of
from neuroscope_inference.engine.sweeps.references import References
from neuroscope_inference.engine.sweeps.run import RunRecord, run

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Runs patches of one pair.

    Args:
        model: what runs.
        metric: how they are scored.
        reader: of their ends.
        pair: the pair.
        method: how they run.
        base: the unedited run; None: they run one by one.
        given: by row and point, activations (1, ...) that they ask for.
        at: what they are scored against.
        scores: of the run without its edits, a number for each of the metric's positions.
        baseline: the metric of both unedited runs.
        seconds: of an unedited run.
        continuation: how runs go on; None: they end with the prompt.
        corruption: edits of the run that is edited; None: there are none.
        goes_on: the same at generated tokens.
    """

    model: LoadedModel
    metric: Metric
    reader: EndReader
    pair: Pair
    method: Method
    base: UneditedRun | None
    given: Mapping[Asked, mx.array]
    at: Reference
    scores: Values
    baseline: pb.PairBaseline
    seconds: float
    continuation: Continuation | None = None
    corruption: EditPlan | None = None
    goes_on: EditPlan | None = None

    def texts(self, patches: Sequence[Patch]) -> list[pb.GeneratedText]:
        """What patches go on with; none where they do not.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
            OutOfMemoryError: it takes more memory than there is.
        """
        if self.continuation is None:
            return []
        most, edits_generated = self.continuation.sampler.max_tokens, self.continuation.edits_generated
        rows = [
            ContinuedEdits(
                self._plan(patch),
                self._chained(patch.generated(most, self.given) if edits_generated else None, self.goes_on),
            )
            for patch in patches
        ]
        return self.continuation.texts(self.pair.edited, self.pair.edited_row, rows)

    def values(self, patches: Sequence[Patch], first: int) -> Values:
        """The metric of patches, normalised if it is to be.

        Args:
            patches: what runs together.
            first: the first position that is computed.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
            OutOfMemoryError: it takes more memory than there is.
        """
        is_edited = any(patch.extent.first < self.pair.length for patch in patches)
        changed = [place for place in self.at.places if place >= first and is_edited]
        known = len(self.at.places) - len(changed)
        scores = np.broadcast_to(self.scores, (len(patches), len(self.at.places)))
        if changed:
            end = self._alone(patches) if self.base is None else self._together(patches, self.base, first, changed)
            new = np.array(self.metric.scores(end, self.at, known))
            scores = np.concatenate([scores[:, :known], new], axis=1)
        values = scores.mean(axis=1, dtype=np.float64)
        if not np.isfinite(values).all():
            bad = patches[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise DataConversionError(f"the metric of patch {bad.number} is not finite", field="metric")
        return self._scaled(values).astype(np.float32)

    def _together(self, patches: Sequence[Patch], base: UneditedRun, first: int, places: Sequence[int]) -> mx.array:
        rows = [Row(self._plan(patch, patch.extent.boundary), patch.extent.boundary) for patch in patches]
        return run_batch(self.model, self.reader, base, rows, first, places)

    def _alone(self, patches: Sequence[Patch]) -> mx.array:
        ends: list[mx.array] = []
        for patch in patches:
            plan, cache = self._plan(patch), caches.new(self.model.network)
            tokens, row = self.pair.edited, self.pair.edited_row
            found = run(self.model, self.reader, tokens, row, self.at.places, cache, plan=plan)
            assert found.end is not None
            ends.append(found.end)
        return mx.concatenate(ends)

    def _plan(self, patch: Patch, boundary: int | None = None) -> Plan:
        """The edits of a patch, and before them those of its run, as far as they lie behind a boundary."""
        plan = patch.plan()
        plan.take(self.given)
        if self.corruption is None:
            return plan
        return ChainedEdits(self.corruption, plan, boundary, self.model.layout.num_layers)

    def _chained(self, plan: Plan | None, before: EditPlan | None) -> Plan | None:
        if plan is None or before is None:
            return plan or before
        return ChainedEdits(before, plan, None, self.model.layout.num_layers)

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.metric.is_normalised:
            return values
        return (values - self.baseline.corrupted) / (self.baseline.clean - self.baseline.corrupted)


@dataclass(frozen=True, slots=True)
class Preparation:
    """Makes the unedited runs of pairs.

    Args:
        model: what runs.
        metric: how runs are scored.
        method: how patches run.
        references: what stands for the usual.
        asks: rows of a pair and points that cells ask for.
        corruptions: edits of corrupted runs.
        continuation: how runs go on; None: they end with the prompt.
    """

    model: LoadedModel
    metric: Metric
    method: Method
    references: References
    asks: set[Asked]
    corruptions: Corruptions
    continuation: Continuation | None = None

    def of(self, pair: Pair) -> Prepared:
        """Runs the clean prompt and the corrupted one.

        Raises:
            InvalidRequestError: both score the same, where values are scaled between them.
            OutOfMemoryError: it takes more memory than there is.
        """
        reader = EndReader(self.model.layout, self.model.capabilities.can_cut, self.metric.reads_stream)
        runs = {CLEAN: self._run(reader, pair, CLEAN)}
        usual = self.references.rows_of(pair)
        corruption = self.corruptions.plan(pair)
        if corruption is not None:
            corruption.take(usual | {(row, point): runs[CLEAN].points[point] for row, point in self._of(CLEAN)})
        if pair.corrupted is not None:
            runs[CORRUPTED] = self._run(reader, pair, CORRUPTED, corruption)
        clean_end = runs[CLEAN].end
        places = {row: self.metric.places(len(pair.prompt(row))) for row in runs}
        scores: dict[int, Values] = {}
        for row, found in runs.items():
            assert found.end is not None
            at = Reference(pair, row, places[row], None if row == CLEAN else clean_end)
            scores[row] = np.array(self.metric.scores(found.end, at))[0]
        baseline = pb.PairBaseline(pair=pair.index, clean=scores[CLEAN].mean(dtype=np.float64))
        if CORRUPTED in runs:
            baseline.corrupted = scores[CORRUPTED].mean(dtype=np.float64)
        check_baseline(baseline, self.metric)
        goes_on = None
        if self.continuation is not None:
            if self.continuation.edits_generated:
                goes_on = self.corruptions.generated(pair, self.continuation.sampler.max_tokens)
            edited_runs = {CLEAN: ContinuedEdits(), CORRUPTED: ContinuedEdits(corruption, goes_on)}
            for row, text in ((CLEAN, baseline.clean_text), (CORRUPTED, baseline.corrupted_text)):
                if row in runs:
                    text.CopyFrom(self.continuation.texts(pair.prompt(row), row, [edited_runs[row]])[0])
        edited = runs[pair.edited_row]
        given = {(row, point): runs[row].points[point] for row, point in self.asks if row in runs}
        base = None
        if self.method.reuses_layers:
            streams = [edited.points[point] for point in streams_of(self.model)]
            cache = [layer for layer in edited.cache if isinstance(layer, WholeCache)]
            keeps = cache if self.method.reuses_positions else None
            base = UneditedRun(pair.edited, pair.edited_row, streams, keeps, self.method.cuts_tail)
        return Prepared(
            self.model,
            self.metric,
            reader,
            pair,
            self.method,
            base,
            given | usual,
            Reference(pair, pair.edited_row, places[pair.edited_row], clean_end),
            scores[pair.edited_row],
            baseline,
            min(found.seconds for found in runs.values()),
            self.continuation,
            corruption if pair.edited_row == CORRUPTED else None,
            goes_on if pair.edited_row == CORRUPTED else None,
        )

    def _of(self, row: int) -> set[Asked]:
        return {asked for asked in self.asks if asked[0] == row}

    def _run(self, reader: EndReader, pair: Pair, row: int, plan: EditPlan | None = None) -> RunRecord:
        points = {point for _, point in self._of(row)}
        is_base = row == pair.edited_row and self.method.reuses_layers
        keeps = is_base and self.method.reuses_positions
        cache = whole_caches(self.model.network) if keeps else caches.new(self.model.network)
        if is_base:
            points |= set(streams_of(self.model))
        tokens = pair.prompt(row)
        return run(self.model, reader, tokens, row, self.metric.places(len(tokens)), cache, sorted(points), plan)
