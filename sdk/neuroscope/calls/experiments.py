"""Sweeps and attributions: a part of both clients."""

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
    """A method that writes a sweep; `run` gives its result, or is awaited for it, as the client's own `sweep`."""

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
    """What both clients do with sweeps and attributions."""

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
        """A sweep that puts activations of one run in the place of the other's, to be written on and run.

        Args:
            clean: the prompt with the behaviour, or a batch.
            corrupted: the prompt without it, or as many; None: the clean one, with edits that corrupt its run.
            corruptions: edits of the corrupted run, as `neuroscope.edit` makes them.
            into: the run that is edited: corrupted shows what is sufficient, clean what is necessary.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: the prompts do not pair.
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
        """Causal tracing (Meng et al. 2022, arXiv:2202.05262), to be written on and run: `.residual().mlps(window=10)`.

        The embeddings of the subject's tokens get noise, and what the clean run has is put back, a place at a time.
        Each sample of noise is a pair; `result["resid_pre"].mean("pair")` is their mean.

        Args:
            prompt: the prompt, or a batch.
            subject: a text that each prompt has once, or one for each.
            noise: its standard deviation, in units of that of each token's own embedding.
            samples: how many draws of noise.
            seed: of the first one.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: there is no noise, or not a subject for each prompt.
        """
        return tracing(prompt, subject, self.sweep, noise=noise, samples=samples, seed=seed, model_id=model_id, bos=bos)

    @client_sweep
    def ablate(
        self: Any, prompt: PromptLike, value: ValueLike = 0.0, *, model_id: str = "", bos: bool | None = None
    ) -> Patching[Any]:
        """A sweep that puts something else in the place of activations, to be written on and run.

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
        """The graph of a model: what writes the residual stream, what reads it, and which edges there are between them.

        Args:
            model_id: empty: the one loaded first.

        Raises:
            UnavailableSiteError: what the model's heads write does not add up; says why.
        """
        return _edge_graph(model_id)

    @client_stream
    def sweep_events(self, result: SweepResult) -> Stream[pb.RunSweepResponse]:
        """Runs what a result still lacks; every event as it comes, once the result holds it."""
        return _sweep_events(result)

    @client_method
    def sweep(
        self, experiment: Experiment, *, progress: SweepListener = False, result: SweepResult | None = None
    ) -> CallFlow[SweepResult]:
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
        with sweep_listener(progress) as report:
            events = _sweep_events(result)
            yield from events.each(lambda event: report(event.progress) if event.HasField("progress") else None)
        result.finish()
        tokens = yield from requests.tokenize(result.edited_tokens, model_id=experiment.request.model_id, bos=None)
        result.tokens = tokens.tokens
        return result

    @client_stream
    def attribution_events(self, result: AttributionResult) -> Stream[pb.AttributeResponse]:
        """Runs what a result was asked for; every message as it comes, once the result holds it."""
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
        """Scores many places of the model at once by the gradient of the metric there.

        A score is the change of the metric, to first order, were the activation of one run that of the other one.

        Args:
            clean: the prompt with the behaviour, or a batch; or an `Attribution`, which says all but `progress`.
            corrupted: the prompt without it, or as many, each as long as its clean one.
            metric: how a run is scored.
            method: attribution-patching, gradient-x-activation, eap, eap-ig or integrated-gradients.
            steps: inputs that gradients are averaged over; 0: 5 for eap-ig, 32 for integrated-gradients, else 1.
            sites: what attribution patching scores, such as `head_output:head,position` or `mlp_out.3`; none: outputs
                of heads and MLPs and the input, by position.
            into: the run that gradients are those of: clean or corrupted. Empty: clean; for integrated gradients the
                line begins at the corrupted prompt, or at zero embeddings where there is none.
            each_pair: scores of every pair in place of their mean.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.
            progress: True shows a bar; a function is called with every `AttributionProgress`.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: before anything has run.
            ResourceExhaustedError: memory does not hold the passes of one pair.
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
    """The attribution that a call names, or is.

    Raises:
        InvalidRequestError: there is no metric, the prompts do not pair, or a name means nothing.
    """
    if isinstance(clean, Attribution):
        return clean
    if metric is None:
        raise InvalidRequestError("the metric is missing, such as logit_diff(' Mary', ' John')", field="metric")
    return attribution(clean, corrupted, metric, **how)


def _edge_graph(model_id: str) -> Call[ComponentGraph]:
    """Asks for the graph of a model."""

    def result(answer: pb.GetEdgeGraphResponse) -> ComponentGraph:
        return ComponentGraph.from_plan(answer.senders, answer.receivers)

    return Call("edge_graph", RPCS["GetEdgeGraph"], pb.GetEdgeGraphRequest(model_id=model_id), result)
