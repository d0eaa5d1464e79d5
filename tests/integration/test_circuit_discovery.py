"""Circuits through running services: every family that has a graph, and mistakes.

python -m pytest tests/integration/test_circuit_discovery.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client
from neuroscope.analysis import AnalysisClient
from neuroscope.circuits import METHODS
from neuroscope.errors import (
    InvalidRequestError,
    MLXIntegrationError,
    UnavailableSiteError,
)
from neuroscope.results.discovery import DiscoveryResult, EvaluationResult
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2, intervention_pb2
from tests.support.attributing import WITHOUT_EDGES
from tests.support.random_models import FAMILIES, make_model
from tests.support.services import Service
from tests.support.sweeping import prompt

_RANDOM = np.random.default_rng(21)
CLEAN = [[0, *_RANDOM.integers(5, 500, 7).tolist()] for _ in range(2)]
CORRUPTED = [[0, *_RANDOM.integers(5, 500, 7).tolist()] for _ in range(2)]
PAIRS = [
    experiment_pb2.PromptPair(clean=prompt(clean), corrupted=prompt(corrupted))
    for clean, corrupted in zip(CLEAN, CORRUPTED, strict=True)
]
METRIC = experiment_pb2.Metric(
    logit_difference=experiment_pb2.LogitDifference(
        answers=[experiment_pb2.TokenChoice(id=7)], others=[experiment_pb2.TokenChoice(id=9)]
    )
)
ROUTED = ("mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "llama4")
UNTESTED = pb.EffectTest(skip=True)


def request_of(**fields: Any) -> pb.DiscoverCircuitRequest:
    search: dict[str, Any] = {"effect_test": UNTESTED, **fields.pop("search", {})}
    made: dict[str, Any] = {"pairs": PAIRS, "metric": METRIC, "search": pb.CircuitSearch(**search)}
    return pb.DiscoverCircuitRequest(**(made | fields))


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


# ------------------------------------------------------------------------------------------------ what it finds


@pytest.mark.filterwarnings("ignore:experts are chosen by a router")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT_EDGES])
def test_every_family(family: str, family_dir: Callable[[str], Path]) -> None:
    """Half of the edges by their scores do better than the other half, and all of them are the model."""
    folder = family_dir(family)
    options = pb.EvaluationOptions(curve=True, curve_sizes=[0.1, 1.0], completeness=True)
    with AnalysisClient.local(model=[str(folder)]) as client:
        result = client.run(DiscoveryResult(request_of(search={"size": 0.5}, evaluation=options)), False)
        graph = result.circuit.graph
    assert result.is_found, result.reason
    assert result.plan is not None
    assert bool(result.plan.warnings) == (family in ROUTED)
    assert graph.edge_count == result.plan.edge_count == result.circuit.message.edge_count
    assert np.isfinite(result["edge_score"].values[graph.mask]).all()
    measured = result.circuit.evaluation
    assert measured is not None
    assert measured.curve[1].faithfulness == pytest.approx(1, abs=1e-4)
    assert measured.edge_count <= round(0.5 * graph.edge_count)
    scale = abs(measured.clean - measured.corrupted)
    recovered = abs(measured.circuit - measured.corrupted) / scale
    assert recovered == pytest.approx(abs(measured.faithfulness), rel=1e-4)
    scored = result["edge_score"].values[graph.mask].sum()
    assert np.isfinite(scored)


@pytest.mark.parametrize("family", WITHOUT_EDGES)
def test_a_model_without_a_graph_says_why(family: str, family_dir: Callable[[str], Path]) -> None:
    folder = family_dir(family)
    with (
        AnalysisClient.local(model=[str(folder)]) as client,
        pytest.raises(UnavailableSiteError, match="a norm stands behind the attention") as caught,
    ):
        client.run(DiscoveryResult(request_of()), False)
    assert caught.value.field == "model_id"


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"path-patching", "acdc"}))  # these are dear on so many edges
@pytest.mark.parametrize("run", ["clean", "corrupted"])
def test_every_method_scores_every_edge_or_node(client: AnalysisClient, method: str, run: str) -> None:
    """To first order gradients say what patching measures; both are the change of the metric of the edited run."""
    edited = experiment_pb2.SWEPT_RUN_CLEAN if run == "clean" else experiment_pb2.SWEPT_RUN_CORRUPTED
    search = {"method": METHODS[method], "edited_run": edited}
    options = pb.EvaluationOptions(skip=True)
    result = client.run(DiscoveryResult(request_of(search=search, evaluation=options, model_id="gpt2")), False)
    assert result.is_found, result.reason
    graph = result.circuit.graph
    found = result[result.names[0]].values
    scored = found if found.ndim == 1 else found[graph.mask]
    assert np.isfinite(scored).all()
    told = result.circuit.provenance
    assert (told.source, told.search.method) == ("discovery", METHODS[method])
    assert told.forward_passes > 0
    assert told.call_count >= 3
    if method in ("activation-patching", "attribution-patching"):
        exact = client.run(
            DiscoveryResult(
                request_of(
                    search=search | {"method": pb.CIRCUIT_METHOD_ACTIVATION_PATCHING},
                    evaluation=options,
                    model_id="gpt2",
                )
            ),
            False,
        )["node_score"]
        assert np.corrcoef(exact.values, scored)[0, 1] > 0.4
        assert exact.sel(sender="input").values == pytest.approx(
            (told.search.edited_run == 2 or -1) * np.mean([b.clean - b.corrupted for b in baselines(client)]), rel=1e-3
        )


def baselines(client: AnalysisClient) -> list[experiment_pb2.PairBaseline]:
    found = DiscoveryResult(request_of(model_id="gpt2", search={"method": pb.CIRCUIT_METHOD_EAP}))
    events = list(client.events(found))
    return [event.partial.baseline for event in events if event.partial.HasField("baseline")]


def test_nodes_are_chosen_by_the_edges_that_leave_them(client: AnalysisClient) -> None:
    search = {"granularity": pb.CIRCUIT_GRANULARITY_NODE, "count": 5}
    result = client.run(DiscoveryResult(request_of(search=search, model_id="llama")), False)
    graph, scores = result.circuit.graph, result["edge_score"].values
    sums = np.abs(np.nansum(scores, axis=1))
    strongest = {graph.senders[row] for row in np.argsort(-sums)[:5]}
    assert set(result.circuit.nodes) - {"input", "logits"} <= strongest


# ------------------------------------------------------------------------------------------------ what it refuses


def spoilt(pair: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"clean": prompt(CLEAN[0]), "corrupted": prompt(CORRUPTED[0])}
    return {"pairs": [experiment_pb2.PromptPair(**(made | pair))]}


SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "no pairs": ({"pairs": []}, "pairs"),
    "no corrupted prompt": ({"pairs": [experiment_pb2.PromptPair(clean=prompt(CLEAN[0]))]}, "pairs[0].corrupted"),
    "unequal lengths": (spoilt({"corrupted": prompt(CORRUPTED[0][:5])}), "pairs[0]"),
    "noise": (spoilt({"noise": experiment_pb2.SubjectNoise(subject="a")}), "pairs[0].noise"),
    "edits": (spoilt({"corruptions": [intervention_pb2.Intervention()]}), "pairs[0].corruptions"),
    "no metric": ({"metric": None}, "metric"),
    "a metric that is scaled already": (
        {"metric": experiment_pb2.Metric(logit_difference=METRIC.logit_difference, normalised=True)},
        "metric.normalised",
    ),
    "an answer of several tokens": (
        {
            "metric": experiment_pb2.Metric(
                log_probability=experiment_pb2.LogProbability(
                    answers=[experiment_pb2.TokenChoice(text=" perplexities of language")]
                )
            )
        },
        "metric.log_probability.answers[0].text",
    ),
    "the gradient of a rank": (
        {"metric": experiment_pb2.Metric(rank=experiment_pb2.Rank(answers=[experiment_pb2.TokenChoice(id=7)]))},
        "metric.rank",
    ),
    "a method of the future": ({"search": {"method": 77}}, "search.method"),
    "a run of the future": ({"search": {"edited_run": 77}}, "search.edited_run"),
    "a granularity of the future": ({"search": {"granularity": 77}}, "search.granularity"),
    "edges by nodes": (
        {"search": {"method": pb.CIRCUIT_METHOD_ACTIVATION_PATCHING, "granularity": pb.CIRCUIT_GRANULARITY_EDGE}},
        "search.granularity",
    ),
    "a size of nothing": ({"search": {"size": 0.0}}, "search.size"),
    "a size beyond all": ({"search": {"size": 1.5}}, "search.size"),
    "too many edges": ({"search": {"count": 10**6}}, "search.count"),
    "a threshold below 0": ({"search": {"threshold": -1.0}}, "search.threshold"),
    "a faithfulness beyond all": ({"search": {"faithfulness": 2.0}}, "search.faithfulness"),
    "a size of acdc": ({"search": {"method": pb.CIRCUIT_METHOD_ACDC, "size": 0.1}}, "search.size"),
    "steps of acdc": ({"search": {"method": pb.CIRCUIT_METHOD_ACDC, "steps": 3}}, "search.steps"),
    "a significance of 1": (
        {"search": {"effect_test": pb.EffectTest(significance=1)}},
        "search.effect_test.significance",
    ),
    "a least effect below 0": (
        {"search": {"effect_test": pb.EffectTest(least_effect=-1)}},
        "search.effect_test.least_effect",
    ),
    "a curve beyond all": (
        {"evaluation": pb.EvaluationOptions(curve=True, curve_sizes=[0.5, 2])},
        "evaluation.curve_sizes[1]",
    ),
    "no model": ({"model_id": "nowhere"}, "model_id"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_mistakes_are_told_before_anything_runs(client: AnalysisClient, case: str) -> None:
    fields, field = SPOILT[case]
    result = DiscoveryResult(request_of(**fields))
    with pytest.raises(MLXIntegrationError) as caught:
        client.run(result, False)
    assert 400 <= caught.value.http_status < 500
    assert caught.value.field == field, caught.value
    assert result.plan is None


def test_evaluations_refuse_circuits_of_other_graphs(client: AnalysisClient) -> None:
    nodes = [pb.CircuitNode(name="input"), pb.CircuitNode(name="logits")]
    for circuit, field in (
        (pb.Circuit(), "circuit.nodes"),
        (
            pb.Circuit(nodes=nodes, edges=[pb.CircuitEdge(sender="m9", receiver="logits", in_circuit=True)]),
            "circuit.edges[0]",
        ),
    ):
        request = pb.EvaluateCircuitRequest(pairs=PAIRS, metric=METRIC, circuit=circuit)
        with pytest.raises(InvalidRequestError) as caught:
            client.run(EvaluationResult(request), False)
        assert caught.value.field == field
    edges = [pb.CircuitEdge(sender="input", receiver="logits", in_circuit=True)]
    options = pb.EvaluationOptions(curve=True)
    request = pb.EvaluateCircuitRequest(
        pairs=PAIRS, metric=METRIC, circuit=pb.Circuit(nodes=nodes, edges=edges), evaluation=options
    )
    with pytest.raises(InvalidRequestError, match="no edge of the circuit has a score"):
        client.run(EvaluationResult(request), False)


def test_a_circuit_knows_its_checkpoint(client: AnalysisClient, inference: Service, tmp_path: Path) -> None:
    """On another one of its shape it is evaluated with a warning, on one of another shape not at all."""
    wanted = request_of(model_id="llama", evaluation=pb.EvaluationOptions(skip=True))
    found = client.run(DiscoveryResult(wanted)).circuit
    with Client(inference.target) as below:
        assert found.message.model.weights_hash == below.model("llama").model.weights_hash != ""

    def evaluated(by: AnalysisClient, model_id: str) -> EvaluationResult:
        request = pb.EvaluateCircuitRequest(pairs=PAIRS, metric=METRIC, circuit=found.message, model_id=model_id)
        return by.run(EvaluationResult(request))

    assert not (evaluated(client, "llama").plan or pb.CircuitPlan()).warnings
    with pytest.raises(InvalidRequestError, match="2 key/value heads, not 4") as caught:
        evaluated(client, "neuroscope-tiny")
    assert caught.value.field == "circuit.model"
    other = make_model("llama", tmp_path / "other", seed=9)
    with (
        AnalysisClient.local(model=[str(other)]) as local,
        pytest.warns(UserWarning, match="found on another checkpoint: llama with weights .*, and not other with"),
    ):
        evaluated(local, "other")
