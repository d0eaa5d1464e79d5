"""Sweeps: a part of both clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing, closing
from typing import Any

from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.grids import ValueLike
from neuroscope.experiments.patching import Patching, ablation, patching
from neuroscope.experiments.progress import SweepListener, sweep_listener
from neuroscope.experiments.result import SweepResult
from neuroscope.model_calls import AsyncModelCalls, ModelCalls
from neuroscope.prompts import PromptLike
from neuroscope.rpc import RPCS
from neuroscope.v1 import experiment_pb2 as pb


class ExperimentCalls(ModelCalls):
    """What `Client` does with sweeps."""

    def patch(
        self,
        clean: PromptLike,
        corrupted: PromptLike,
        *,
        into: str = "corrupted",
        model_id: str = "",
        bos: bool | None = None,
    ) -> Patching[SweepResult]:
        """A sweep that puts activations of one run in the place of the other's, to be written on and run.

        Args:
            clean: the prompt with the behaviour, or a batch.
            corrupted: the prompt without it, or as many.
            into: the run that is edited: corrupted shows what is sufficient, clean what is necessary.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: the prompts do not pair.
        """
        return patching(clean, corrupted, self.sweep, into=into, model_id=model_id, bos=bos)

    def ablate(
        self, prompt: PromptLike, value: ValueLike = 0.0, *, model_id: str = "", bos: bool | None = None
    ) -> Patching[SweepResult]:
        """A sweep that puts something else in the place of activations, to be written on and run.

        Args:
            prompt: the prompt, or a batch.
            value: a number, `mean()` or `resample()` of the references, or a function such as
                `lambda act: act + noise(0.1)`.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.
        """
        return ablation(prompt, self.sweep, value=value, model_id=model_id, bos=bos)

    def sweep_events(self, result: SweepResult) -> Generator[pb.RunSweepResponse, None, None]:
        """Runs what a result still lacks; every event as it comes, once the result holds it."""
        with self._span("sweep"), closing(self._transport.stream(RPCS["RunSweep"], result.request())) as events:
            for event in events:
                yield result.feed(event)

    def sweep(
        self, experiment: Experiment, *, progress: SweepListener = False, result: SweepResult | None = None
    ) -> SweepResult:
        """Runs an experiment.

        Args:
            experiment: what `patch(...)` and `ablate(...)` write, or what was loaded from a file.
            progress: True shows a bar; a function is called with every `SweepProgress`.
            result: that of the same experiment, interrupted: its values are not run again. It is filled as values come,
                so it holds what there is if the call is interrupted again.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: before anything has run.
            ResourceExhaustedError: it is larger than its limits; says what it would take.
        """
        result = SweepResult(experiment) if result is None else result
        with sweep_listener(progress) as report, closing(self.sweep_events(result)) as events:
            for event in events:
                if event.HasField("progress"):
                    report(event.progress)
        result.finish()
        result.tokens = self.tokenize(result.edited_tokens, model_id=experiment.request.model_id).tokens
        return result


class AsyncExperimentCalls(AsyncModelCalls):
    """What `AsyncClient` does with sweeps; the docstrings of `ExperimentCalls` hold here too."""

    def patch(
        self,
        clean: PromptLike,
        corrupted: PromptLike,
        *,
        into: str = "corrupted",
        model_id: str = "",
        bos: bool | None = None,
    ) -> Patching[Coroutine[Any, Any, SweepResult]]:
        """A sweep that puts activations of one run in the place of the other's; `run` is awaited."""
        return patching(clean, corrupted, self.sweep, into=into, model_id=model_id, bos=bos)

    def ablate(
        self, prompt: PromptLike, value: ValueLike = 0.0, *, model_id: str = "", bos: bool | None = None
    ) -> Patching[Coroutine[Any, Any, SweepResult]]:
        """A sweep that puts something else in the place of activations; `run` is awaited."""
        return ablation(prompt, self.sweep, value=value, model_id=model_id, bos=bos)

    async def sweep_events(self, result: SweepResult) -> AsyncGenerator[pb.RunSweepResponse, None]:
        """Runs what a result still lacks; every event as it comes, once the result holds it."""
        async with aclosing(self._transport.stream(RPCS["RunSweep"], result.request())) as events:
            async for event in events:
                yield result.feed(event)

    async def sweep(
        self, experiment: Experiment, *, progress: SweepListener = False, result: SweepResult | None = None
    ) -> SweepResult:
        """Runs an experiment."""
        result = SweepResult(experiment) if result is None else result
        with sweep_listener(progress) as report:
            async with aclosing(self.sweep_events(result)) as events:
                async for event in events:
                    if event.HasField("progress"):
                        report(event.progress)
        result.finish()
        result.tokens = (await self.tokenize(result.edited_tokens, model_id=experiment.request.model_id)).tokens
        return result
