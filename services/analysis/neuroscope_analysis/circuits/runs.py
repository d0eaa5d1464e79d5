"""The metric of runs of the pairs, with any edges changed."""

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
from neuroscope_analysis.circuits.outbox import Outbox
from neuroscope_analysis.circuits.request import Asked

Values = NDArray[np.float64]
OTHER_RUN = experiment_pb2.SweepValue(other_run=experiment_pb2.OtherRun())
_CELLS_BYTES = 32 * 1024 * 1024
"""Masks of the cells of one sweep."""
_MOST_PATCHES = 50_000
"""Of one sweep."""
_MOST_TOLD = 1024
"""Sets whose metric is told at a time."""


class PairRuns:
    """Runs the pairs of a request.

    Args:
        asked: the pairs.
        outbox: hears how far sweeps are.

    Attributes:
        clean, corrupted: the metric of the unedited runs, by pair, once `begin` has run.
        tokens: the pairs as the model reads them.
        warnings: what looks wrong with them.
        forward_passes: that would have taken as long as all so far.
        token_count: tokens read so far.
    """

    def __init__(self, asked: Asked, outbox: Outbox) -> None:
        self._asked, self._outbox = asked, outbox
        self.clean: Values = np.empty(0)
        self.corrupted: Values = np.empty(0)
        self.tokens: list[experiment_pb2.PairTokens] = []
        self.warnings: list[str] = []
        self.forward_passes = 0.0
        self.token_count = 0

    @property
    def gap(self) -> float:
        """By how much the metric of the clean runs is above that of the corrupted ones, the mean over the pairs."""
        return float((self.clean - self.corrupted).mean())

    async def begin(self) -> None:
        """Makes the unedited runs; refuses what the inference service refuses.

        Raises:
            InvalidRequestError, ContextLengthError, DataConversionError: names the field.
        """
        graph = self._asked.graph
        request = self._request(experiment_pb2.SWEPT_RUN_CLEAN)
        request.edges.append(to_edge_grid(np.zeros((1, *graph.mask.shape), bool), OTHER_RUN))
        result = await self._swept(request, "")
        plan, scores = result.plan, result.scores
        assert plan is not None
        self.clean, self.corrupted = (np.asarray(run, np.float64) for run in (scores.clean, scores.corrupted))
        self.tokens, self.warnings = list(plan.pairs), list(plan.warnings)

    async def changed(
        self,
        sets: Sequence[Mask] | NDArray[np.bool_],
        stage: str,
        run: experiment_pb2.SweptRun.ValueType = experiment_pb2.SWEPT_RUN_CLEAN,
    ) -> Values:
        """The metric with the edges of each set changed (pairs, sets).

        Args:
            sets: matrices (sender, receiver), at most a few hundred.
            stage: what is being done, for progress; empty: nothing is told.
            run: the run that is edited; changed edges carry what the other one writes.
        """
        return await self.made(len(sets), lambda index: sets[index], stage, run)

    async def made(
        self,
        count: int,
        make: Callable[[int], Mask],
        stage: str,
        run: experiment_pb2.SweptRun.ValueType = experiment_pb2.SWEPT_RUN_CLEAN,
        tell: Callable[[range, Values], Awaitable[None]] | None = None,
    ) -> Values:
        """The same of any number of sets, each made when it is needed.

        Args:
            count: of the sets.
            make: makes one, by its number.
            stage: as in `changed`.
            run: likewise.
            tell: hears of some at a time: their numbers, and the metric (pairs, some).
        """
        pairs = len(self._asked.pairs)
        most = max(1, min(_CELLS_BYTES // self._asked.graph.mask.size, _MOST_PATCHES // pairs))
        most = most if tell is None else min(most, _MOST_TOLD)
        found: Values = np.empty((pairs, count))
        for first in range(0, count, most):
            numbers = range(first, min(first + most, count))
            request = self._request(run)
            request.edges.append(to_edge_grid(np.stack([make(number) for number in numbers]), OTHER_RUN))
            result = await self._swept(request, stage, first, count)
            found[:, first : numbers.stop] = self.by_pair(result.values)
            if tell is not None:
                await tell(numbers, found[:, first : numbers.stop])
        return found

    async def swept(
        self, grids: Sequence[experiment_pb2.PathGrid], run: experiment_pb2.SweptRun.ValueType, stage: str
    ) -> SweepResult:
        """Paths."""
        request = self._request(run)
        request.paths.extend(grids)
        return await self._swept(request, stage, 0, 0)

    async def attributed(self, how: str, run: experiment_pb2.SweptRun.ValueType, **fields: Any) -> AttributionResult:
        """What gradients say, of every pair."""
        asked = self._asked
        request = experiment_pb2.AttributeRequest(
            model_id=asked.model.model_id,
            pairs=asked.pairs,
            metric=asked.metric,
            edited_run=run,
            each_pair=True,
            **fields,
        )
        result = await asked.model.attribute(
            Attribution(request),
            how,
            lambda progress: self._outbox.progress(how, progress.passes_done, progress.pass_count),
        )
        assert result.plan is not None
        assert result.end is not None
        self.forward_passes += result.end.forward_passes
        self.token_count += (result.plan.steps + 1) * self._tokens()
        return result

    def by_pair(self, values: NDArray[np.floating]) -> Values:
        """Values whose first axis is left out where there is one pair, with it."""
        return np.asarray(values, np.float64).reshape(len(self._asked.pairs), -1)

    def unedited(self, run: experiment_pb2.SweptRun.ValueType) -> Values:
        """The metric of one of the two runs, by pair."""
        return self.clean if run == experiment_pb2.SWEPT_RUN_CLEAN else self.corrupted

    def baselines(self) -> list[circuit_pb2.CircuitPartial]:
        """What is told of the unedited runs."""
        return [
            circuit_pb2.CircuitPartial(
                baseline=experiment_pb2.PairBaseline(pair=pair, clean=clean, corrupted=corrupted)
            )
            for pair, (clean, corrupted) in enumerate(zip(self.clean, self.corrupted, strict=True))
        ]

    def _request(self, run: experiment_pb2.SweptRun.ValueType) -> experiment_pb2.RunSweepRequest:
        asked = self._asked
        return experiment_pb2.RunSweepRequest(
            model_id=asked.model.model_id, pairs=asked.pairs, metric=asked.metric, edited_run=run
        )

    async def _swept(
        self, request: experiment_pb2.RunSweepRequest, stage: str, first: int = 0, count: int = 0
    ) -> SweepResult:
        result, pairs = SweepResult(Experiment(request), warns=False), len(self._asked.pairs)
        async with aclosing(self._asked.model.sweep_events(result, stage or "running the pairs")) as events:
            async for event in events:
                if stage and event.HasField("progress"):
                    done = first + event.progress.patches_done // pairs
                    await self._outbox.progress(stage, done, count or event.progress.patch_count // pairs)
        result.finish()
        assert result.end is not None
        self.forward_passes += result.end.forward_passes
        self.token_count += (2 + result.end.patches_done // pairs) * self._tokens(result)
        return result

    def _tokens(self, result: SweepResult | None = None) -> int:
        """Of the clean prompts."""
        pairs = self.tokens if result is None or result.plan is None else result.plan.pairs
        return sum(len(pair.clean.ids) for pair in pairs)
