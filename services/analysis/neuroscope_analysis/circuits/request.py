"""Validation of requests for circuits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.circuits import METHODS, ComponentGraph
from neuroscope.circuits.content import method_name
from neuroscope.circuits.model_match import shape_difference
from neuroscope.circuits.sources import circuit_model
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.settings import AnalysisSettings

NODE_METHODS = (pb.CIRCUIT_METHOD_ACTIVATION_PATCHING, pb.CIRCUIT_METHOD_ATTRIBUTION_PATCHING)
GRADIENT_METHODS = (
    pb.CIRCUIT_METHOD_ATTRIBUTION_PATCHING,
    pb.CIRCUIT_METHOD_EAP,
    pb.CIRCUIT_METHOD_EAP_IG,
)
MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Circuit sizes as shares of the edges (Mueller et al. 2025, arXiv:2504.13151)."""
DEFAULT_SIGNIFICANCE = 0.001
DEFAULT_RESAMPLES = 100
MAX_RESAMPLES = 10_000
DEFAULT_FAITHFULNESS = 0.9
_DEFAULT_STEPS = 5
_DEFAULT_MINIMALITY_BOUND = 0.01


@dataclass(frozen=True, slots=True)
class CircuitTask:
    """The task of a circuit: pairs of prompts and their metric.

    Args:
        model: the model.
        graph: the graph of the model.
        pairs: clean and corrupted prompts.
        metric: how runs are scored.
        dataset: the origin of the pairs.
    """

    model: RemoteModel
    graph: ComponentGraph
    pairs: Sequence[experiment_pb2.PromptPair]
    metric: experiment_pb2.Metric
    dataset: pb.CircuitDataset


@dataclass(frozen=True, slots=True)
class DiscoveryJob:
    """The validated request of a search.

    Args:
        task: the prompts and their metric.
        search: the search with defaults filled in, except the threshold of ACDC, which depends on the metric.
        evaluation: what is measured, with defaults filled in.
        name: the name of the circuit.
    """

    task: CircuitTask
    search: pb.CircuitSearch
    evaluation: pb.EvaluationOptions
    name: str

    @property
    def scores_nodes(self) -> bool:
        """Whether nodes are scored."""
        return self.search.method in NODE_METHODS


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """The validated request of an evaluation.

    Args:
        task: the prompts and their metric.
        options: what is measured, with defaults filled in.
        circuit: the circuit to evaluate.
    """

    task: CircuitTask
    options: pb.EvaluationOptions
    circuit: pb.Circuit


async def validate_discovery(
    request: pb.DiscoverCircuitRequest, model: RemoteModel, settings: AnalysisSettings
) -> DiscoveryJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError: `field` is the offending field.
    """
    search = _search(request.search)
    if search.method in GRADIENT_METHODS and request.metric.WhichOneof("kind") == "rank":
        raise InvalidRequestError(
            f"rank has no gradient, which {method_name(search.method)} needs", field="metric.rank"
        )
    evaluation = _evaluation(request.evaluation)
    _check_pairs(request.pairs, request.metric, settings)
    graph = await model.edge_graph()
    most, what = graph.edge_count, "edges"
    if search.granularity == pb.CIRCUIT_GRANULARITY_NODE:
        most, what = len(graph.senders), "nodes that write"
    if search.WhichOneof("extent") == "count" and search.count > most:
        raise InvalidRequestError(f"the graph has {most} {what}, not {search.count}", field="search.count")
    dataset = _dataset(request.dataset, len(request.pairs))
    name = request.name or f"{dataset.name or 'circuit'} by {method_name(search.method)}"
    return DiscoveryJob(CircuitTask(model, graph, request.pairs, request.metric, dataset), search, evaluation, name)


async def validate_evaluation(
    request: pb.EvaluateCircuitRequest, model: RemoteModel, settings: AnalysisSettings
) -> EvaluationJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError: `field` is the offending field.
    """
    options = _evaluation(request.evaluation)
    if options.skip:
        raise InvalidRequestError("skip is not allowed for an evaluation", field="evaluation.skip")
    if not request.circuit.nodes:
        raise InvalidRequestError("the circuit has no nodes", field="circuit.nodes")
    if options.curve and not any(edge.HasField("score") for edge in request.circuit.edges):
        raise InvalidRequestError("a curve needs scores, and no edge of the circuit has one", field="evaluation.curve")
    _check_pairs(request.pairs, request.metric, settings)
    if shape := shape_difference(request.circuit.model, circuit_model(model.info)):
        raise InvalidRequestError(
            f"the circuit does not fit {model.model_id}: its model has {shape}", field="circuit.model"
        )
    graph = await model.edge_graph()
    for index, edge in enumerate(request.circuit.edges):
        if not graph.has_edge(edge.sender, edge.receiver):
            raise InvalidRequestError(
                f"{edge.sender}->{edge.receiver} is not an edge of {model.model_id}", field=f"circuit.edges[{index}]"
            )
    dataset = _dataset(request.dataset, len(request.pairs))
    task = CircuitTask(model, graph, request.pairs, request.metric, dataset)
    return EvaluationJob(task, options, request.circuit)


def _search(given: pb.CircuitSearch) -> pb.CircuitSearch:
    search = pb.CircuitSearch()
    search.CopyFrom(given)
    search.method = given.method or pb.CIRCUIT_METHOD_EAP_IG
    if search.method not in METHODS.values():
        raise InvalidRequestError(f"unknown method {given.method}", field="search.method", valid=list(METHODS))
    name, of_nodes = method_name(search.method), search.method in NODE_METHODS
    if given.granularity not in pb.CircuitGranularity.values():
        raise InvalidRequestError(f"unknown granularity {given.granularity}", field="search.granularity")
    scored = pb.CIRCUIT_GRANULARITY_NODE if of_nodes else pb.CIRCUIT_GRANULARITY_EDGE
    search.granularity = given.granularity or scored
    if of_nodes and search.granularity != scored:
        raise InvalidRequestError(f"{name} scores nodes, not edges", field="search.granularity")
    is_acdc = search.method == pb.CIRCUIT_METHOD_ACDC
    if is_acdc and search.granularity != scored:
        raise InvalidRequestError("acdc removes edges, not nodes", field="search.granularity")
    if given.edited_run not in experiment_pb2.SweptRun.values():
        raise InvalidRequestError(f"unknown run {given.edited_run}", field="search.edited_run")
    search.edited_run = given.edited_run or experiment_pb2.SWEPT_RUN_CLEAN
    if is_acdc and search.edited_run != experiment_pb2.SWEPT_RUN_CLEAN:
        raise InvalidRequestError("acdc patches the clean run only", field="search.edited_run")
    _check_steps(search, name)
    _check_extent(search, is_acdc=is_acdc)
    if not is_acdc and search.WhichOneof("extent") is None:
        search.faithfulness = DEFAULT_FAITHFULNESS
    test = search.effect_test
    if not 0 <= test.significance < 1:
        raise InvalidRequestError("significance must be from 0 to below 1", field="search.effect_test.significance")
    if not _is_non_negative(test.least_effect):
        raise InvalidRequestError(
            "least_effect must be a finite number, at least 0", field="search.effect_test.least_effect"
        )
    search.effect_test.significance = test.significance or DEFAULT_SIGNIFICANCE
    return search


def _check_steps(search: pb.CircuitSearch, name: str) -> None:
    if search.method == pb.CIRCUIT_METHOD_EAP_IG:
        search.steps = search.steps or _DEFAULT_STEPS
    elif search.steps > 1 or (search.steps and search.method not in GRADIENT_METHODS):
        raise InvalidRequestError(f"{name} has no steps; eap-ig has", field="search.steps")


def _check_extent(search: pb.CircuitSearch, *, is_acdc: bool) -> None:
    which = search.WhichOneof("extent")
    if is_acdc and which not in (None, "threshold"):
        raise InvalidRequestError("acdc takes a threshold only", field=f"search.{which}")
    match which:
        case "size" | "faithfulness":
            value: float = getattr(search, which)
            if not 0 < value <= 1:
                raise InvalidRequestError(
                    f"{which} must be above 0 and at most 1, not {value:g}", field=f"search.{which}"
                )
        case "count":
            if not search.count:
                raise InvalidRequestError("count must be at least 1", field="search.count")
        case "threshold":
            if not _is_non_negative(search.threshold) or (is_acdc and not search.threshold):
                raise InvalidRequestError(
                    f"threshold must be {'above' if is_acdc else 'at least'} 0, not {search.threshold:g}",
                    field="search.threshold",
                )
        case _:
            pass


def _evaluation(given: pb.EvaluationOptions) -> pb.EvaluationOptions:
    options = pb.EvaluationOptions()
    options.CopyFrom(given)
    for index, size in enumerate(given.curve_sizes):
        if not 0 < size <= 1:
            raise InvalidRequestError(
                f"a size must be above 0 and at most 1, not {size:g}", field=f"evaluation.curve_sizes[{index}]"
            )
    sizes = sorted(set(given.curve_sizes)) or MIB_SIZES
    del options.curve_sizes[:]
    if options.curve:
        options.curve_sizes.extend(sizes)
    if not _is_non_negative(given.minimality_bound):
        raise InvalidRequestError(
            "minimality_bound must be a finite number, at least 0", field="evaluation.minimality_bound"
        )
    options.minimality_bound = given.minimality_bound or _DEFAULT_MINIMALITY_BOUND
    if not given.HasField("resample_count"):
        options.resample_count = DEFAULT_RESAMPLES
    if options.resample_count > MAX_RESAMPLES:
        raise InvalidRequestError(f"at most {MAX_RESAMPLES} resamples", field="evaluation.resample_count")
    return options


def _check_pairs(
    pairs: Sequence[experiment_pb2.PromptPair], metric: experiment_pb2.Metric, settings: AnalysisSettings
) -> None:
    if not pairs:
        raise InvalidRequestError("there are no pairs", field="pairs")
    if len(pairs) > settings.max_prompts:
        raise InvalidRequestError(
            f"at most {settings.max_prompts} pairs in a request (setting max_prompts)", field="pairs"
        )
    for index, pair in enumerate(pairs):
        if not pair.HasField("corrupted"):
            raise InvalidRequestError(
                f"pair {index} has no corrupted prompt",
                field=f"pairs[{index}].corrupted",
            )
        for name in ("corruptions", "noise"):
            if pair.corruptions if name == "corruptions" else pair.HasField("noise"):
                raise InvalidRequestError(
                    "circuits need a corrupted prompt, not edits or noise",
                    field=f"pairs[{index}].{name}",
                )
    if metric.WhichOneof("kind") is None:
        raise InvalidRequestError("the metric is missing", field="metric")
    if metric.normalised:
        raise InvalidRequestError("faithfulness is always normalised: omit this", field="metric.normalised")


def _dataset(given: pb.CircuitDataset, pairs: int) -> pb.CircuitDataset:
    dataset = pb.CircuitDataset()
    dataset.CopyFrom(given)
    dataset.pair_count = pairs
    return dataset


def _is_non_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0
