"""Sweep and attribution methods of both clients."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, overload

from neuroscope.base_client.call import Call, CallFlow, Stream
from neuroscope.base_client.client import AsyncBaseClient, BaseClient
from neuroscope.base_client.client_method import client_method, client_stream
from neuroscope.base_client.progress import (
    AttributionListener,
    SweepListener,
    attribution_listener,
    sweep_listener,
)
from neuroscope.calls import requests
from neuroscope.circuits.graph import ComponentGraph
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.attribution import Attribution, attribution
from neuroscope.experiments.attribution_result import AttributionResult
from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.grids import ValueLike
from neuroscope.experiments.metrics import Metric
from neuroscope.experiments.patching import Patching, ablation, patching, tracing
from neuroscope.experiments.sweep_result import SweepResult
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import RPCS

P = ParamSpec("P")


class client_sweep(Generic[P]):
    """A method that builds a sweep. Its `run` is synchronous or asynchronous like the client's `sweep`."""

    def __init__(self, write: Callable[Concatenate[Any, P], Patching[Any]]) -> None:
        self._write = write
        self.__doc__ = write.__doc__

    @overload
    def __get__(self, caller: BaseClient, owner: type[Any]) -> Callable[P, Patching[SweepResult]]: ...
    @overload
    def __get__(
        self, caller: AsyncBaseClient, owner: type[Any]
    ) -> Callable[P, Patching[Coroutine[Any, Any, SweepResult]]]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Patching[Any]]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        write: Any = self._write
        return write.__get__(caller, owner)


class ExperimentCalls:
    """Sweep and attribution methods."""

    @client_sweep
    def patch(
        self: Any,
        clean: PromptLike,
        corrupted: PromptLike | None = None,
        *,
        corruptions: Sequence[InterventionLike] = (),
        into: str = "corrupted",
        model_id: str = "",
        bos: bool | None = None,
    ) -> Patching[Any]:
        """Builds a sweep of activation patching; add grids, then `run` it.

        Args:
            clean: the prompt with the behaviour, or a batch.
            corrupted: the prompt without the behaviour, or one for each; None: the clean prompt with corrupting edits.
            corruptions: edits of the corrupted run, from `neuroscope.edit`.
            into: the patched run: corrupted tests sufficiency, clean tests necessity.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: the numbers of prompts differ.
        """
        return patching(clean, corrupted, self.sweep, corruptions=corruptions, into=into, model_id=model_id, bos=bos)

    @client_sweep
    def causal_trace(
        self: Any,
        prompt: PromptLike,
        subject: str | Sequence[str],
        *,
        noise: float = 3.0,
        samples: int = 10,
        seed: int = 0,
        model_id: str = "",
        bos: bool | None = None,
    ) -> Patching[Any]:
        """Builds a causal trace (Meng et al. 2022, arXiv:2202.05262): `.residual().mlps(window=10).run()`.

        Noise is added to the embeddings of the subject's tokens, and activations of the clean run are restored one
        place at a time. Each sample of noise is a pair; `result["resid_pre"].mean("pair")` averages them.

        Args:
            prompt: the prompt, or a batch.
            subject: a text that occurs once in each prompt, or one text per prompt.
            noise: standard deviation, relative to that of each token's embedding.
            samples: number of noise samples.
            seed: seed of the first sample.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: noise is 0, or the numbers of subjects and prompts differ.
        """
        return tracing(prompt, subject, self.sweep, noise=noise, samples=samples, seed=seed, model_id=model_id, bos=bos)

    @client_sweep
    def ablate(
        self: Any, prompt: PromptLike, value: ValueLike = 0.0, *, model_id: str = "", bos: bool | None = None
    ) -> Patching[Any]:
        """Builds a sweep of ablations; add grids, then `run` it.

        Args:
            prompt: the prompt, or a batch.
            value: a number, `mean()` or `resample()` of the references, or a function such as
                `lambda act: act + noise(0.1)`.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.
        """
        return ablation(prompt, self.sweep, value=value, model_id=model_id, bos=bos)

    @client_method
    def edge_graph(self, *, model_id: str = "") -> Call[ComponentGraph]:
        """The graph of a model: senders, receivers and the edges between them.

        Args:
            model_id: empty: the one loaded first.

        Raises:
            UnavailableSiteError: the outputs of the model's heads do not add up; the message says why.
        """
        return _edge_graph(model_id)

    @client_stream
    def sweep_events(self, result: SweepResult) -> Stream[pb.RunSweepResponse]:
        """Runs the missing patches of a result; yields each event after the result has it."""
        return _sweep_events(result)

    @client_method
    def sweep(
        self, experiment: Experiment, *, progress: SweepListener = False, result: SweepResult | None = None
    ) -> CallFlow[SweepResult]:
        """Runs an experiment.

        Args:
            experiment: from `patch(...)` or `ablate(...)`, or loaded from a file.
            progress: True shows a bar; a function is called with every `SweepProgress`.
            result: an interrupted result of the same experiment, whose values are not run again. It is filled as values
                arrive, so it holds all values so far if the call is interrupted again.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: before the first run.
            ResourceExhaustedError: it exceeds its limits; the message has the estimate.
        """
        result = SweepResult(experiment) if result is None else result
        with sweep_listener(progress) as report:
            events = _sweep_events(result)
            yield from events.each(lambda event: report(event.progress) if event.HasField("progress") else None)
        result.finish()
        tokens = yield from requests.tokenize(result.edited_tokens, model_id=experiment.request.model_id, bos=None)
        result.tokens = tokens.tokens
        return result

    @client_stream
    def attribution_events(self, result: AttributionResult) -> Stream[pb.AttributeResponse]:
        """Runs an attribution; yields each message after the result has it."""
        return _attribution_events(result)

    @client_method
    def attribute(
        self,
        clean: PromptLike | Attribution,
        corrupted: PromptLike | None = None,
        *,
        metric: Metric | None = None,
        method: str = "attribution-patching",
        steps: int = 0,
        sites: Iterable[str] = (),
        into: str = "",
        each_pair: bool = False,
        model_id: str = "",
        bos: bool | None = None,
        progress: AttributionListener = False,
    ) -> CallFlow[AttributionResult]:
        """Scores many sites of the model at once by the gradient of the metric.

        A score is the first-order change of the metric when the activation is replaced by that of the other run.

        Args:
            clean: the prompt with the behaviour, or a batch; or an `Attribution` with all other arguments.
            corrupted: the prompt without the behaviour, or one for each, of the same length.
            metric: the metric of a run.
            method: attribution-patching, gradient-x-activation, eap, eap-ig or integrated-gradients.
            steps: number of interpolated inputs; 0: 5 for eap-ig, 32 for integrated-gradients, otherwise 1.
            sites: sites that attribution patching scores, such as `head_output:head,position` or `mlp_out.3`; none:
                the input and the outputs of heads and MLPs, by position.
            into: the run of the gradients: clean or corrupted. Empty: clean; integrated gradients start at the
                corrupted prompt, or at zero embeddings without one.
            each_pair: returns the scores of each pair instead of their mean.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.
            progress: True shows a bar; a function is called with every `AttributionProgress`.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: before the first run.
            ResourceExhaustedError: the passes of one pair exceed the memory.
        """
        wanted = _wanted(
            clean,
            corrupted,
            metric,
            method=method,
            steps=steps,
            places=sites,
            into=into,
            each_pair=each_pair,
            model_id=model_id,
            bos=bos,
        )
        result = AttributionResult(wanted)
        with attribution_listener(progress) as report:
            events = _attribution_events(result)
            yield from events.each(lambda event: report(event.progress) if event.HasField("progress") else None)
        result.finish()
        tokens = yield from requests.tokenize(result.edited_tokens, model_id=wanted.request.model_id, bos=None)
        result.tokens = tokens.tokens
        return result


def _sweep_events(result: SweepResult) -> Stream[pb.RunSweepResponse]:
    return Stream("sweep", RPCS["RunSweep"], result.request(), lambda event: (result.feed(event),))


def _attribution_events(result: AttributionResult) -> Stream[pb.AttributeResponse]:
    def take(event: Event) -> tuple[pb.AttributeResponse, ...]:
        message = result.feed(event)
        return () if message is None else (message,)

    return Stream("attribute", RPCS["Attribute"], result.attribution.request, take)


def _wanted(
    clean: PromptLike | Attribution, corrupted: PromptLike | None, metric: Metric | None, **how: Any
) -> Attribution:
    """The attribution of a call's arguments.

    Raises:
        InvalidRequestError: the metric is missing, the numbers of prompts differ, or a name is unknown.
    """
    if isinstance(clean, Attribution):
        return clean
    if metric is None:
        raise InvalidRequestError("the metric is missing, such as logit_diff(' Mary', ' John')", field="metric")
    return attribution(clean, corrupted, metric, **how)


def _edge_graph(model_id: str) -> Call[ComponentGraph]:
    """The call for the graph of a model."""

    def result(answer: pb.GetEdgeGraphResponse) -> ComponentGraph:
        return ComponentGraph.from_plan(answer.senders, answer.receivers)

    return Call("edge_graph", RPCS["GetEdgeGraph"], pb.GetEdgeGraphRequest(model_id=model_id), result)
