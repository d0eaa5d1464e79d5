"""Circuits and their datasets: a part of the clients of the analysis service."""

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
    """What both clients do with circuits."""

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
            dataset: a name such as ioi, a JSONL file, pairs {clean, corrupted, answer, other}, or what `dataset` gave.
            method: of `neuroscope.circuits.METHODS`: eap-ig, eap, edge-patching, path-patching, acdc; and by nodes
                activation-patching, attribution-patching.
            size: the share of the graph's edges (or nodes) that the circuit has. Give at most one of size, count,
                threshold and faithfulness; the default is a faithfulness of 0.9.
            count: the number of edges (or nodes).
            threshold: the least magnitude of a score; of acdc, its threshold.
            faithfulness: the faithfulness that the smallest circuit must reach. The measured sizes become the curve.
            metric: how runs are scored, with an answer for each pair; None: the answer's logit minus the other's.
            granularity: edges or nodes; empty: what the method scores.
            steps: of eap-ig, inputs between both runs; 0: 5.
            into: the run that is edited to score, clean or corrupted; empty: the method's own.
            prune: leaves out edges that no path of the circuit leads through from input to logits.
            test: answers "no effect" where effects are not more than noise.
            significance: chance of taking noise for an effect; 0: 0.001.
            least_effect: least effect that counts, in units of the metric; 0: what rounding can do.
            evaluate: measures the circuit: faithfulness, and what the next arguments say.
            curve: faithfulness of the strongest edges at several sizes, with CPR and CMD.
            curve_sizes: which, as shares; none: those of MIB.
            completeness: what is outside of the circuit.
            minimality: the circuit without each of its edges.
            minimality_bound: loss of faithfulness from which an edge is needed; 0: 0.01.
            resample_count: bootstrap resamples of the pairs, which show how stable the circuit is; None: 100, 0: none.
            pairs: how many of the dataset; None: 64 of a named one, all of others.
            seed: of a named dataset's generator.
            drop: leaves out pairs of the user's own that do not fit the tokenizer; otherwise they are errors.
            name: of the circuit; empty: made of dataset and method.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before anything has run.
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
        """Measures how well a circuit does on pairs of prompts; the others' edges carry what the other run has.

        Args:
            circuit: of the model's graph, found in any way, or read from a file.
            dataset, metric, curve, curve_sizes, completeness, minimality, minimality_bound, pairs, seed, drop: as of
                `discover_circuit`.
            model_id, bos, progress: likewise.

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
