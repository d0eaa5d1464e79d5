"""An attribution: passes of batches of pairs, and the scores that come of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, ResourceExhaustedError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.wire.frames import OutgoingTensor
from neuroscope_inference.engine.attributions.gradients import GradientPasses, PassResult
from neuroscope_inference.engine.attributions.inputs import InputAttribution
from neuroscope_inference.engine.attributions.method import AttributionMethod
from neuroscope_inference.engine.attributions.pair_batch import PairBatch, pair_batches
from neuroscope_inference.engine.attributions.support import why_no_gradients
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.memory import OutOfMemoryError
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.engine.sweeps.baseline import check_baseline
from neuroscope_inference.engine.sweeps.metrics import Metric
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, RUNS, Pair
from neuroscope_inference.engine.sweeps.pairs import pair_tokens
from neuroscope_inference.engine.sweeps.patch_batches import Costs

Event: TypeAlias = "pb.AttributeResponse | StepResult | None"
"""None: nothing to send, but others may have their turn."""
Values = NDArray[np.float64]
_GRADIENT_PASSES = 2.0
"""Forward passes that one with a gradient takes as long as, until it has been measured."""
_ROUTED_WARNING = (
    "experts are chosen by a router: gradients hold the choice fixed, and do not see what a change of it does"
)


@dataclass(slots=True)
class PassTimer:
    """GradientPasses and their time."""

    forward_total: int
    gradient_total: int
    started: float = field(default_factory=time.perf_counter)
    forwards: list[float] = field(default_factory=list[float])
    gradients: list[float] = field(default_factory=list[float])

    @property
    def elapsed(self) -> float:
        """Seconds since the plan."""
        return time.perf_counter() - self.started

    @property
    def forward_s(self) -> float:
        """Of a forward pass, the mean; 0 if there was none."""
        return sum(self.forwards) / len(self.forwards) if self.forwards else 0.0

    @contextmanager
    def forward(self) -> Generator[None, None, None]:
        """Times a pass without a gradient."""
        began = time.perf_counter()
        yield
        self.forwards.append(time.perf_counter() - began)

    @contextmanager
    def gradient(self) -> Generator[None, None, None]:
        """Times a pass with a gradient, and what is made of it."""
        began = time.perf_counter()
        yield
        self.gradients.append(time.perf_counter() - began)

    def progress(self) -> pb.AttributeResponse:
        """How far it is."""
        done = len(self.forwards) + len(self.gradients)
        total = max(self.forward_total + self.gradient_total, done)
        gradient_s = sum(self.gradients) / len(self.gradients) if self.gradients else _GRADIENT_PASSES * self.forward_s
        remaining = max(self.forward_total - len(self.forwards), 0) * self.forward_s
        remaining += max(self.gradient_total - len(self.gradients), 0) * gradient_s
        return pb.AttributeResponse(
            progress=pb.AttributionProgress(
                passes_done=done, pass_count=total, elapsed_seconds=self.elapsed, remaining_seconds=remaining
            )
        )


@dataclass(slots=True)
class Attribution:
    """A checked request.

    Args:
        model: what runs.
        pairs: the prompts; either all have a corrupted one or none has.
        metric: how runs are scored.
        make_kind: what is scored, made on the engine's thread.
        each_pair: whether every pair has scores of its own.
        batch_bytes: memory of the rows that run together.
        batch_positions: positions of the rows that run together, at most, where there is more than one.
        warnings: of the prompts.
    """

    model: LoadedModel
    pairs: Sequence[Pair]
    metric: Metric
    make_method: Callable[[], AttributionMethod]
    each_pair: bool
    batch_bytes: int
    batch_positions: int
    warnings: Sequence[str] = ()

    def run(self) -> Iterator[Event]:
        """What is sent; for the engine's thread.

        Raises:
            UnavailableSiteError: no gradient can be taken on the model, or its edges do not add up.
            InvalidRequestError: both runs of a pair score the same, where scores are scaled between them.
            DataConversionError: a metric or a score is not finite.
            ResourceExhaustedError: memory does not hold the passes of one pair.
        """
        if reason := why_no_gradients(self.model):
            raise UnavailableSiteError(
                f"no gradient is taken on {self.model.description.model_id}: {reason}", field="model_id"
            )
        kind = self.make_method()
        costs = Costs(self.model, max(len(self.metric.places(pair.length)) for pair in self.pairs))
        planned = list(pair_batches(self.pairs, self.metric, lambda length: self._max_rows(costs, length)))
        plan = self._plan(kind, planned)
        clock = PassTimer(plan.forward_count, plan.gradient_count)
        yield pb.AttributeResponse(plan=plan)
        sums: list[Values] | None = None
        for batch in planned:
            for event in self._score_batch(kind, batch, clock):
                if not isinstance(event, list):
                    yield event
                elif self.each_pair:
                    rows = [pair.index for pair in batch.pairs]
                    yield _to_step_result([(pair, [tensor[row] for tensor in event]) for row, pair in enumerate(rows)])
                else:
                    of_batch = [tensor.sum(axis=0) for tensor in event]
                    sums = of_batch if sums is None else [a + b for a, b in zip(sums, of_batch, strict=True)]
        if sums is not None:
            yield _to_step_result([(0, [tensor / len(self.pairs) for tensor in sums])])
        passes = clock.elapsed / clock.forward_s if clock.forward_s else 0.0
        yield pb.AttributeResponse(end=pb.AttributionEnd(elapsed_seconds=clock.elapsed, forward_passes=passes))

    def _max_rows(self, costs: Costs, length: int) -> int:
        """Rows of so many tokens that run together. A backward pass needs what all layers computed."""
        nbytes = costs.nbytes(length, length) * costs.layers
        return max(1, min(self.batch_bytes // nbytes, self.batch_positions // length))

    def _needs_other_run(self, kind: AttributionMethod) -> bool:
        """Whether the other run of each pair is made."""
        if self.pairs[0].corrupted is None:
            return False
        wants_clean = self.pairs[0].edited_row == CORRUPTED
        return kind.needs_other_run or isinstance(kind, InputAttribution) or self.metric.is_normalised or wants_clean

    def _starts_at_zero(self, kind: AttributionMethod) -> bool:
        """Whether the line of inputs begins at embeddings that are zero."""
        return isinstance(kind, InputAttribution) and self.pairs[0].corrupted is None

    def _plan(self, kind: AttributionMethod, planned: Sequence[PairBatch]) -> pb.AttributionPlan:
        fractions = kind.fractions()
        forwards = int(self._needs_other_run(kind) or isinstance(kind, InputAttribution)) + int(fractions[0] > 0)
        is_routed = any(block.routing is not None for block in self.model.layout.blocks)
        plan = pb.AttributionPlan(
            model_id=self.model.description.model_id,
            edited_run=pb.SWEPT_RUN_UNSPECIFIED if self._starts_at_zero(kind) else RUNS[self.pairs[0].edited_row],
            steps=len(fractions),
            forward_count=forwards * len(planned),
            gradient_count=len(fractions) * len(planned),
            most_rows=max(batch.rows for batch in planned),
            pairs=[pair_tokens(pair, self.metric) for pair in self.pairs],
            warnings=[*self.warnings, _ROUTED_WARNING] if is_routed else self.warnings,
        )
        kind.describe_tensors(plan)
        return plan

    def _score_batch(
        self, kind: AttributionMethod, batch: PairBatch, clock: PassTimer
    ) -> Generator[pb.AttributeResponse | list[Values] | None, None, None]:
        """Events of a batch, then its scores (rows, ...); where memory runs short, those of two smaller ones."""
        reason = ""
        try:
            yield from self._run_passes(kind, batch, clock)
        except OutOfMemoryError as error:
            reason = str(error)
        if not reason:
            return
        halves = batch.halves()
        if halves is None:
            raise ResourceExhaustedError(
                f"memory does not hold the passes of pair {batch.pairs[0].index}: {reason}; ask for fewer sites, or "
                "wait for other requests to end",
                field=f"pairs[{batch.pairs[0].index}]",
            )
        found: list[list[Values]] = []
        for half in halves:
            for event in self._score_batch(kind, half, clock):
                if isinstance(event, list):
                    found.append(event)
                else:
                    yield event
        yield [np.concatenate(tensors) for tensors in zip(*found, strict=True)]

    def _run_passes(
        self, kind: AttributionMethod, batch: PairBatch, clock: PassTimer
    ) -> Generator[pb.AttributeResponse | list[Values] | None, None, None]:
        """Events of a batch, then its scores.

        Raises:
            OutOfMemoryError: it takes more memory than there is.
        """
        passes = GradientPasses(
            self.model,
            OutputReader(self.model.layout, self.model.capabilities.can_cut, self.metric.reads_stream),
            self.metric.places,
            self.model.cuts_last_mlp,
        )
        from_zero, makes_other = self._starts_at_zero(kind), self._needs_other_run(kind)
        line, fractions = kind.interpolation_point, kind.fractions()
        compared = list(dict.fromkeys([*kind.activation_points, line]))
        row = CLEAN if from_zero else batch.edited_row
        tokens = batch.tokens(row)
        other: PassResult | None = None
        edited: PassResult | None = None
        if makes_other or from_zero:
            with clock.forward():
                other = passes.forward(tokens if from_zero else batch.tokens(batch.other_row), compared)
            yield clock.progress()
        # What brings tokens to the beginning of the line.
        base = -other.activations[line] if from_zero and other is not None else None
        if fractions[0] > 0:
            with clock.forward():
                edited = passes.forward(tokens, compared, {} if base is None else {line: base})
            yield clock.progress()
        scores = kind.start(other)
        for fraction in fractions:
            added = _interpolate(line, base, fraction, edited, other)
            clean = other if from_zero or row == CORRUPTED else edited
            score = batch.score(row, None if clean is None else clean.output)
            with clock.gradient():
                reads = kind.extra_points if edited is not None else [*compared, *kind.extra_points]
                passed = passes.backward(tokens, score, list(dict.fromkeys(reads)), kind.gradient_points, added)
                edited = edited or passed
                scores.add(passed, edited)
            yield clock.progress()
        assert edited is not None
        found = [np.array(tensor, np.float64) for tensor in scores.finish()]
        ends = {CLEAN: other, CORRUPTED: edited} if from_zero else {row: edited, batch.other_row: other}
        yield from self._finish_batch(kind, batch, found, ends)

    def _finish_batch(
        self, kind: AttributionMethod, batch: PairBatch, scores: list[Values], runs: Mapping[int, PassResult | None]
    ) -> Generator[pb.AttributeResponse | list[Values] | None, None, None]:
        """What is said of a batch's runs, and its scores, scaled as the metric is.

        Raises:
            InvalidRequestError: both runs of a pair score the same, where scores are scaled between them.
            DataConversionError: a metric or a score is not finite.
        """
        clean = runs[CLEAN]
        assert clean is not None
        values: dict[int, Values] = {}
        for row, passed in runs.items():
            if passed is not None:
                of_prompt = CLEAN if self._starts_at_zero(kind) else row
                clean_end = None if row == CLEAN else clean.output
                values[row] = np.array(batch.score(of_prompt, clean_end)(passed.output), np.float64)
        for index, pair in enumerate(batch.pairs):
            baseline = pb.PairBaseline(pair=pair.index, clean=values[CLEAN][index])
            if CORRUPTED in values:
                baseline.corrupted = values[CORRUPTED][index]
            check_baseline(baseline, self.metric)
            yield pb.AttributeResponse(baseline=baseline)
        scale = values[CLEAN] - values[CORRUPTED] if self.metric.is_normalised else np.ones(batch.rows)
        scaled = [tensor / scale.reshape(-1, *[1] * (tensor.ndim - 1)) for tensor in scores]
        for index, pair in enumerate(batch.pairs):
            if not all(np.isfinite(tensor[index]).all() for tensor in scaled):
                raise DataConversionError(f"scores of pair {pair.index} are not finite", field=f"pairs[{pair.index}]")
        if isinstance(kind, InputAttribution):
            change = values[CLEAN] - values[CORRUPTED]
            change = (-change if batch.edited_row == CLEAN and not self._starts_at_zero(kind) else change) / scale
            for index, pair in enumerate(batch.pairs):
                attributed = scaled[0][index].sum()
                yield pb.AttributeResponse(
                    completeness=pb.Completeness(pair=pair.index, attributed=attributed, change=change[index])
                )
        yield scaled


def _interpolate(
    line: PointIndex, base: mx.array | None, fraction: float, edited: PassResult | None, other: PassResult | None
) -> dict[PointIndex, mx.array]:
    """What is added to the embedding of the tokens to reach a place on the line."""
    if fraction == 0:
        return {} if base is None else {line: base}
    assert edited is not None
    assert other is not None
    step = fraction * (other.activations[line] - edited.activations[line])
    return {line: step if base is None else base + step}


def _to_step_result(scores: Sequence[tuple[int, Sequence[Values]]]) -> StepResult:
    """Tensors of pairs as they are sent."""
    tensors: list[OutgoingTensor] = []
    for row, of_pair in scores:
        for plan_index, tensor in enumerate(of_pair):
            single = np.ascontiguousarray(tensor[None], np.float32)
            tensors.append(OutgoingTensor(plan_index, row, single.shape, 0, single.data.cast("B")))
    return StepResult(0, tensors, sum(tensor.data.nbytes for tensor in tensors))
