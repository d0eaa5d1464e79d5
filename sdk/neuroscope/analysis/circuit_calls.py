"""Circuit methods of the clients of the analysis service."""

from __future__ import annotations

from collections.abc import Sequence

from neuroscope.analysis.base_client import run
from neuroscope.analysis.circuit_requests import discovery_request, evaluation_options, evaluation_request
from neuroscope.base_client.call import Call, CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import AnalysisListener
from neuroscope.calls.dataset_fitting import dataset as fitted
from neuroscope.circuits import Circuit
from neuroscope.datasets import Dataset, DatasetLike
from neuroscope.datasets.example import Text
from neuroscope.experiments.metrics import Metric
from neuroscope.results.discovery import DiscoveryResult, EvaluationResult
from neuroscope.v1 import inference_pb2, tokens_pb2
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.model_info import Tokens
from neuroscope.wire.rpc import ANALYSIS_RPCS


class CircuitCalls:
    """Circuit methods."""

    @client_method
    def dataset(
        self,
        dataset: DatasetLike,
        *,
        count: int | None = None,
        seed: int = 0,
        drop: bool = False,
        model_id: str = "",
        bos: bool | None = None,
    ) -> CallFlow[Dataset]:
        """Pairs of prompts that fit the model's tokenizer; as `neuroscope.Client.dataset`."""
        return (yield from _dataset(dataset, count, seed, drop, model_id, bos))

    @client_method
    def discover_circuit(
        self,
        dataset: DatasetLike,
        *,
        method: str = "eap-ig",
        size: float | None = None,
        count: int | None = None,
        threshold: float | None = None,
        faithfulness: float | None = None,
        metric: Metric | None = None,
        granularity: str = "",
        steps: int = 0,
        into: str = "",
        prune: bool = True,
        test: bool = True,
        significance: float = 0.0,
        least_effect: float = 0.0,
        evaluate: bool = True,
        curve: bool = False,
        curve_sizes: Sequence[float] = (),
        completeness: bool = True,
        minimality: bool = False,
        minimality_bound: float = 0.0,
        resample_count: int | None = None,
        pairs: int | None = None,
        seed: int = 0,
        drop: bool = False,
        name: str = "",
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[DiscoveryResult]:
        """Finds the circuit of a behaviour: the edges of the model's graph that pairs of prompts need.

        Args:
            dataset: a name such as ioi, a JSONL file, pairs {clean, corrupted, answer, other}, or a `Dataset`.
            method: one of `neuroscope.circuits.METHODS`: eap-ig, eap, edge-patching, path-patching, acdc; for nodes
                activation-patching, attribution-patching.
            size: the share of the graph's edges (or nodes) that the circuit has. Give at most one of size, count,
                threshold and faithfulness; the default is a faithfulness of 0.9.
            count: the number of edges (or nodes).
            threshold: the least magnitude of a score; of acdc, its threshold.
            faithfulness: the faithfulness that the smallest circuit must reach. The measured sizes become the curve.
            metric: the metric, with an answer for each pair; None: the answer's logit minus the other's.
            granularity: edges or nodes; empty: those that the method scores.
            steps: interpolation steps of eap-ig; 0: 5.
            into: the patched run, clean or corrupted; empty: the method's default.
            prune: removes edges that are on no path from input to logits.
            test: tests the effect for significance; without one the circuit is empty.
            significance: significance level; 0: 0.001.
            least_effect: minimum effect, in units of the metric; 0: the rounding error.
            evaluate: measures the faithfulness of the circuit, and what the next arguments add.
            curve: faithfulness of the strongest edges at several sizes, with CPR and CMD.
            curve_sizes: the sizes of the curve as shares; none: those of MIB.
            completeness: measures the model without the circuit.
            minimality: measures the circuit without each of its edges.
            minimality_bound: minimum loss of faithfulness that makes an edge necessary; 0: 0.01.
            resample_count: bootstrap resamples of the pairs, for the circuit's stability; None: 100, 0: none.
            pairs: number of pairs; None: 64 of a named dataset, all of others.
            seed: seed of a named dataset's generator.
            drop: leaves out the user's own pairs that do not fit the tokenizer; otherwise they are errors.
            name: name of the circuit; empty: dataset and method.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before the first run.
        """
        chosen = yield from _dataset(dataset, pairs, seed, drop, model_id, bos)
        options = evaluation_options(
            skip=not evaluate,
            curve=curve,
            curve_sizes=curve_sizes,
            completeness=completeness,
            minimality=minimality,
            minimality_bound=minimality_bound,
            resample_count=resample_count,
        )
        request = discovery_request(
            chosen,
            metric=metric,
            method=method,
            size=size,
            count=count,
            threshold=threshold,
            faithfulness=faithfulness,
            granularity=granularity,
            steps=steps,
            into=into,
            prune=prune,
            test=test,
            significance=significance,
            least_effect=least_effect,
            evaluation=options,
            name=name,
            model_id=model_id,
        )
        return (yield from run(DiscoveryResult(request), progress))

    @client_method
    def evaluate_circuit(
        self,
        circuit: Circuit,
        dataset: DatasetLike,
        *,
        metric: Metric | None = None,
        curve: bool = False,
        curve_sizes: Sequence[float] = (),
        completeness: bool = True,
        minimality: bool = False,
        minimality_bound: float = 0.0,
        pairs: int | None = None,
        seed: int = 0,
        drop: bool = False,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[EvaluationResult]:
        """Measures a circuit on pairs of prompts: edges outside of it carry the activations of the other run.

        Args:
            circuit: a circuit of the model's graph.
            dataset, metric, curve, curve_sizes, completeness, minimality, minimality_bound, pairs, seed, drop: as in
                `discover_circuit`.
            model_id, bos, progress: as in `discover_circuit`.

        Raises:
            InvalidRequestError: the circuit is not of this model's graph, or the dataset does not fit.
        """
        chosen = yield from _dataset(dataset, pairs, seed, drop, model_id, bos)
        options = evaluation_options(
            curve=curve,
            curve_sizes=curve_sizes,
            completeness=completeness,
            minimality=minimality,
            minimality_bound=minimality_bound,
        )
        request = evaluation_request(circuit, chosen, metric=metric, evaluation=options, model_id=model_id)
        return (yield from run(EvaluationResult(request), progress))


def _dataset(
    wanted: DatasetLike, count: int | None, seed: int, drop: bool, model_id: str, bos: bool | None
) -> CallFlow[Dataset]:
    def tokenize(texts: Sequence[Text], bos: bool | None) -> CallFlow[list[Tokens]]:
        answer = yield from _tokenize(texts, model_id, bos)
        return [Tokens(list(each.token_ids), list(each.tokens), tuple(each.warnings)) for each in answer.prompts]

    def describe() -> CallFlow[inference_pb2.Model]:
        answer = yield from _tokenize((), model_id, None)
        return answer.model

    return fitted(tokenize, describe, wanted, count=count, seed=seed, bos=bos, drop=drop)


def _tokenize(texts: Sequence[Text], model_id: str, bos: bool | None) -> Call[tokens_pb2.TokenizePromptsResponse]:
    messages = [prompts.to_message(text, bos) for text in texts]
    request = tokens_pb2.TokenizePromptsRequest(model_id=model_id, prompts=messages)
    return Call("tokenize_prompts", ANALYSIS_RPCS["TokenizePrompts"], request, lambda response: response)
