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
from neuroscope_inference.engine.sweeps.batched_run import BaseRun, PatchRow, run_batch
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey, CellPlan
from neuroscope_inference.engine.sweeps.corruption import ChainedEdits, Corruptions
from neuroscope_inference.engine.sweeps.fastest_method import stream_points
from neuroscope_inference.engine.sweeps.generation import GenerationEdits, SweepGeneration
from neuroscope_inference.engine.sweeps.method import SweepMethod
from neuroscope_inference.engine.sweeps.metrics import Metric, ScoreReference
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Pair
from neuroscope_inference.engine.sweeps.patch import Patch
from neuroscope_inference.engine.sweeps.prefix_cache import FullCache, new_full_caches
from neuroscope_inference.engine.sweeps.reference_activations import ReferenceActivations
from neuroscope_inference.engine.sweeps.single_run import RunResult, run

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairRunner:
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
    reader: OutputReader
    pair: Pair
    method: SweepMethod
    base: BaseRun | None
    activations: Mapping[ActivationKey, mx.array]
    reference: ScoreReference
    scores: Values
    baseline: pb.PairBaseline
    seconds: float
    generation: SweepGeneration | None = None
    corruption: EditPlan | None = None
    generation_corruption: EditPlan | None = None

    def texts(self, patches: Sequence[Patch]) -> list[pb.GeneratedText]:
        """What patches go on with; none where they do not.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
            OutOfMemoryError: it takes more memory than there is.
        """
        if self.generation is None:
            return []
        most, edits_generated = self.generation.sampler.max_tokens, self.generation.edits_generated
        rows = [
            GenerationEdits(
                self._plan(patch),
                self._chain(
                    patch.generation_plan(most, self.activations) if edits_generated else None,
                    self.generation_corruption,
                ),
            )
            for patch in patches
        ]
        return self.generation.texts(self.pair.edited, self.pair.edited_row, rows)

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
        changed = [place for place in self.reference.places if place >= first and is_edited]
        known = len(self.reference.places) - len(changed)
        scores = np.broadcast_to(self.scores, (len(patches), len(self.reference.places)))
        if changed:
            end = (
                self._run_singly(patches)
                if self.base is None
                else self._run_batched(patches, self.base, first, changed)
            )
            new = np.array(self.metric.scores(end, self.reference, known))
            scores = np.concatenate([scores[:, :known], new], axis=1)
        values = scores.mean(axis=1, dtype=np.float64)
        if not np.isfinite(values).all():
            bad = patches[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise DataConversionError(f"the metric of patch {bad.number} is not finite", field="metric")
        return self._normalise(values).astype(np.float32)

    def _run_batched(self, patches: Sequence[Patch], base: BaseRun, first: int, places: Sequence[int]) -> mx.array:
        rows = [PatchRow(self._plan(patch, patch.extent.boundary), patch.extent.boundary) for patch in patches]
        return run_batch(self.model, self.reader, base, rows, first, places)

    def _run_singly(self, patches: Sequence[Patch]) -> mx.array:
        ends: list[mx.array] = []
        for patch in patches:
            plan, cache = self._plan(patch), caches.new_cache(self.model.network)
            tokens, row = self.pair.edited, self.pair.edited_row
            found = run(self.model, self.reader, tokens, row, self.reference.places, cache, plan=plan)
            assert found.output is not None
            ends.append(found.output)
        return mx.concatenate(ends)

    def _plan(self, patch: Patch, boundary: int | None = None) -> CellPlan:
        """The edits of a patch, and before them those of its run, as far as they lie behind a boundary."""
        plan = patch.plan()
        plan.provide(self.activations)
        if self.corruption is None:
            return plan
        return ChainedEdits(self.corruption, plan, boundary, self.model.layout.num_layers)

    def _chain(self, plan: CellPlan | None, before: EditPlan | None) -> CellPlan | None:
        if plan is None or before is None:
            return plan or before
        return ChainedEdits(before, plan, None, self.model.layout.num_layers)

    def _normalise(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.metric.is_normalised:
            return values
        return (values - self.baseline.corrupted) / (self.baseline.clean - self.baseline.corrupted)


@dataclass(frozen=True, slots=True)
class PairPreparer:
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
    method: SweepMethod
    references: ReferenceActivations
    required_activations: set[ActivationKey]
    corruptions: Corruptions
    generation: SweepGeneration | None = None

    def prepare(self, pair: Pair) -> PairRunner:
        """Runs the clean prompt and the corrupted one.

        Raises:
            InvalidRequestError: both score the same, where values are scaled between them.
            OutOfMemoryError: it takes more memory than there is.
        """
        reader = OutputReader(self.model.layout, self.model.capabilities.can_cut, self.metric.reads_stream)
        runs = {CLEAN: self._run(reader, pair, CLEAN)}
        usual = self.references.activations_for(pair)
        corruption = self.corruptions.plan(pair)
        if corruption is not None:
            corruption.provide(
                usual | {(row, point): runs[CLEAN].activations[point] for row, point in self._keys_of_row(CLEAN)}
            )
        if pair.corrupted is not None:
            runs[CORRUPTED] = self._run(reader, pair, CORRUPTED, corruption)
        clean_end = runs[CLEAN].output
        places = {row: self.metric.places(len(pair.prompt(row))) for row in runs}
        scores: dict[int, Values] = {}
        for row, found in runs.items():
            assert found.output is not None
            at = ScoreReference(pair, row, places[row], None if row == CLEAN else clean_end)
            scores[row] = np.array(self.metric.scores(found.output, at))[0]
        baseline = pb.PairBaseline(pair=pair.index, clean=scores[CLEAN].mean(dtype=np.float64))
        if CORRUPTED in runs:
            baseline.corrupted = scores[CORRUPTED].mean(dtype=np.float64)
        check_baseline(baseline, self.metric)
        goes_on = None
        if self.generation is not None:
            if self.generation.edits_generated:
                goes_on = self.corruptions.generation_plan(pair, self.generation.sampler.max_tokens)
            edited_runs = {CLEAN: GenerationEdits(), CORRUPTED: GenerationEdits(corruption, goes_on)}
            for row, text in ((CLEAN, baseline.clean_text), (CORRUPTED, baseline.corrupted_text)):
                if row in runs:
                    text.CopyFrom(self.generation.texts(pair.prompt(row), row, [edited_runs[row]])[0])
        edited = runs[pair.edited_row]
        given = {(row, point): runs[row].activations[point] for row, point in self.required_activations if row in runs}
        base = None
        if self.method.reuses_layers:
            streams = [edited.activations[point] for point in stream_points(self.model)]
            cache = [layer for layer in edited.cache if isinstance(layer, FullCache)]
            keeps = cache if self.method.reuses_positions else None
            base = BaseRun(pair.edited, pair.edited_row, streams, keeps, self.method.cuts_tail)
        return PairRunner(
            self.model,
            self.metric,
            reader,
            pair,
            self.method,
            base,
            given | usual,
            ScoreReference(pair, pair.edited_row, places[pair.edited_row], clean_end),
            scores[pair.edited_row],
            baseline,
            min(found.seconds for found in runs.values()),
            self.generation,
            corruption if pair.edited_row == CORRUPTED else None,
            goes_on if pair.edited_row == CORRUPTED else None,
        )

    def _keys_of_row(self, row: int) -> set[ActivationKey]:
        return {asked for asked in self.required_activations if asked[0] == row}

    def _run(self, reader: OutputReader, pair: Pair, row: int, plan: EditPlan | None = None) -> RunResult:
        points = {point for _, point in self._keys_of_row(row)}
        is_base = row == pair.edited_row and self.method.reuses_layers
        keeps = is_base and self.method.reuses_positions
        cache = new_full_caches(self.model.network) if keeps else caches.new_cache(self.model.network)
        if is_base:
            points |= set(stream_points(self.model))
        tokens = pair.prompt(row)
        return run(self.model, reader, tokens, row, self.metric.places(len(tokens)), cache, sorted(points), plan)
