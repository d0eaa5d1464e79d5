"""Runs of the pairs with patched edges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.circuits.graph import Mask
from neuroscope.experiments import AttributionResult, Experiment, SweepResult
from neuroscope.experiments.attribution import Attribution
from neuroscope.experiments.edges import to_edge_grid
from neuroscope.v1 import circuit_pb2, experiment_pb2
from neuroscope_analysis.circuits.event_queue import EventQueue
from neuroscope_analysis.circuits.request import CircuitTask

Values = NDArray[np.float64]
OTHER_RUN = experiment_pb2.SweepValue(other_run=experiment_pb2.OtherRun())
_CELLS_BYTES = 32 * 1024 * 1024
"""Maximum memory of the masks of one sweep."""
_MAX_PATCHES = 50_000
"""Maximum patches of one sweep."""
_MAX_REPORTED = 1024
"""Maximum edge sets of one report."""


class PairRuns:
    """Runs the pairs of a request.

    Args:
        task: the pairs and their metric.
        events: receives progress.

    Attributes:
        clean, corrupted: the metric of the unedited runs (pairs,), after `run_unedited`.
        tokens: the tokenized pairs.
        warnings: warnings about the pairs.
        forward_passes: the cost of all runs so far, in forward passes.
        token_count: tokens read so far.
    """

    def __init__(self, task: CircuitTask, events: EventQueue) -> None:
        self._task, self._events = task, events
        self.clean: Values = np.empty(0)
        self.corrupted: Values = np.empty(0)
        self.tokens: list[experiment_pb2.PairTokens] = []
        self.warnings: list[str] = []
        self.forward_passes = 0.0
        self.token_count = 0

    @property
    def metric_gap(self) -> float:
        """The mean difference of the metric between clean and corrupted runs."""
        return float((self.clean - self.corrupted).mean())

    async def run_unedited(self) -> None:
        """Runs the pairs without edits.

        Raises:
            InvalidRequestError, ContextLengthError, DataConversionError: the inference service rejects the pairs.
        """
        graph = self._task.graph
        request = self._request(experiment_pb2.SWEPT_RUN_CLEAN)
        request.edges.append(to_edge_grid(np.zeros((1, *graph.mask.shape), bool), OTHER_RUN))
        result = await self._sweep(request, "")
        plan, scores = result.plan, result.scores
        assert plan is not None
        self.clean, self.corrupted = (np.asarray(run, np.float64) for run in (scores.clean, scores.corrupted))
        self.tokens, self.warnings = list(plan.pairs), list(plan.warnings)

    async def patch_edges(
        self,
        sets: Sequence[Mask] | NDArray[np.bool_],
        stage: str,
        run: experiment_pb2.SweptRun.ValueType = experiment_pb2.SWEPT_RUN_CLEAN,
    ) -> Values:
        """The metric with the edges of each set patched (pairs, sets).

        Args:
            sets: masks (sender, receiver), at most a few hundred.
            stage: the stage for progress; empty: no progress.
            run: the run that is patched; patched edges carry the activations of the other run.
        """
        return await self.patch_edge_batches(len(sets), lambda index: sets[index], stage, run)

    async def patch_edge_batches(
        self,
        count: int,
        make: Callable[[int], Mask],
        stage: str,
        run: experiment_pb2.SweptRun.ValueType = experiment_pb2.SWEPT_RUN_CLEAN,
        tell: Callable[[range, Values], Awaitable[None]] | None = None,
    ) -> Values:
        """The same for any number of sets, each made when it is needed.

        Args:
            count: number of sets.
            make: returns the set of an index.
            stage: as in `patch_edges`.
            run: as in `patch_edges`.
            tell: receives the indices of a batch and its metric (pairs, batch).
        """
        pairs = len(self._task.pairs)
        most = max(1, min(_CELLS_BYTES // self._task.graph.mask.size, _MAX_PATCHES // pairs))
        most = most if tell is None else min(most, _MAX_REPORTED)
        found: Values = np.empty((pairs, count))
        for first in range(0, count, most):
            numbers = range(first, min(first + most, count))
            request = self._request(run)
            request.edges.append(to_edge_grid(np.stack([make(number) for number in numbers]), OTHER_RUN))
            result = await self._sweep(request, stage, first, count)
            found[:, first : numbers.stop] = self.by_pair(result.values)
            if tell is not None:
                await tell(numbers, found[:, first : numbers.stop])
        return found

    async def patch_paths(
        self, grids: Sequence[experiment_pb2.PathGrid], run: experiment_pb2.SweptRun.ValueType, stage: str
    ) -> SweepResult:
        """Patches paths."""
        request = self._request(run)
        request.paths.extend(grids)
        return await self._sweep(request, stage, 0, 0)

    async def attribute(self, how: str, run: experiment_pb2.SweptRun.ValueType, **fields: Any) -> AttributionResult:
        """Gradient-based attribution of each pair."""
        task = self._task
        request = experiment_pb2.AttributeRequest(
            model_id=task.model.model_id,
            pairs=task.pairs,
            metric=task.metric,
            edited_run=run,
            each_pair=True,
            **fields,
        )
        result = await task.model.attribute(
            Attribution(request),
            how,
            lambda progress: self._events.progress(how, progress.passes_done, progress.pass_count),
        )
        assert result.plan is not None
        assert result.end is not None
        self.forward_passes += result.end.forward_passes
        self.token_count += (result.plan.steps + 1) * self._tokens()
        return result

    def by_pair(self, values: NDArray[np.floating]) -> Values:
        """Values with a pair axis, which results of one pair do not have."""
        return np.asarray(values, np.float64).reshape(len(self._task.pairs), -1)

    def unedited(self, run: experiment_pb2.SweptRun.ValueType) -> Values:
        """The metric of one of the unedited runs (pairs,)."""
        return self.clean if run == experiment_pb2.SWEPT_RUN_CLEAN else self.corrupted

    def baseline_messages(self) -> list[circuit_pb2.CircuitPartial]:
        """The metrics of the unedited runs as messages."""
        return [
            circuit_pb2.CircuitPartial(
                baseline=experiment_pb2.PairBaseline(pair=pair, clean=clean, corrupted=corrupted)
            )
            for pair, (clean, corrupted) in enumerate(zip(self.clean, self.corrupted, strict=True))
        ]

    def _request(self, run: experiment_pb2.SweptRun.ValueType) -> experiment_pb2.RunSweepRequest:
        task = self._task
        return experiment_pb2.RunSweepRequest(
            model_id=task.model.model_id, pairs=task.pairs, metric=task.metric, edited_run=run
        )

    async def _sweep(
        self, request: experiment_pb2.RunSweepRequest, stage: str, first: int = 0, count: int = 0
    ) -> SweepResult:
        result, pairs = SweepResult(Experiment(request), warns=False), len(self._task.pairs)
        async with aclosing(self._task.model.sweep_events(result, stage or "running the pairs")) as events:
            async for event in events:
                if stage and event.HasField("progress"):
                    done = first + event.progress.patches_done // pairs
                    await self._events.progress(stage, done, count or event.progress.patch_count // pairs)
        result.finish()
        assert result.end is not None
        self.forward_passes += result.end.forward_passes
        self.token_count += (2 + result.end.patches_done // pairs) * self._tokens(result)
        return result

    def _tokens(self, result: SweepResult | None = None) -> int:
        """The number of tokens of the clean prompts."""
        pairs = self.tokens if result is None or result.plan is None else result.plan.pairs
        return sum(len(pair.clean.ids) for pair in pairs)
