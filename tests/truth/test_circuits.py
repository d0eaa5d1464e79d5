"""Circuits by every method against the planted induction circuit, through the real services: all of it, and no decoy.

The truth is what a change of tokens can see: the four edges that carry tokens.

python -m pytest tests/truth/test_circuits.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.analysis import AnalysisClient
from neuroscope.circuits import METHODS
from neuroscope.results.discovery import DiscoveryResult, EvaluationResult
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from tests.support.numpy_paths import Paths
from tests.support.sweeping import prompt
from tests.truth.induction.model import build
from tests.truth.induction.prompts import Asked, asked
from tests.truth.noise import noise
from tests.truth.running import Bench

PAIRS = 8
CIRCUIT = {"input->a0.h0<v>", "a0.h0->a1.h0<k>", "input->a1.h0<v>", "a1.h0->logits"}
NODES = {"input", "a0.h0", "a1.h0", "logits"}
EVERYTHING = pb.EvaluationOptions(curve=True, completeness=True, minimality=True)
NULL, PLANTED = "null", "induction"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("truth") / PLANTED)


@pytest.fixture(scope="module")
def null_folder(folder: Path) -> Path:
    """Noise of the same shape."""
    return noise(folder, folder.parent / NULL, 4)


@pytest.fixture(scope="module")
def client(services: Bench, folder: Path, null_folder: Path) -> Iterator[AnalysisClient]:
    with services.model(folder), services.model(null_folder):
        yield services.analysis


def searched(client: AnalysisClient, method: str, pairs: list[Asked] | None = None, **fields: Any) -> DiscoveryResult:
    evaluation = fields.pop("evaluation", pb.EvaluationOptions())
    model_id = fields.pop("model_id", PLANTED)
    search = pb.CircuitSearch(method=METHODS[method], **fields)
    prompts, metric = questions(asked(PAIRS) if pairs is None else pairs)
    request = pb.DiscoverCircuitRequest(
        model_id=model_id, pairs=prompts, metric=metric, search=search, evaluation=evaluation
    )
    return client.run(DiscoveryResult(request), False)


def questions(pairs: list[Asked]) -> tuple[list[experiment_pb2.PromptPair], experiment_pb2.Metric]:
    answers, others = (
        [experiment_pb2.TokenChoice(id=getattr(pair, name)) for pair in pairs] for name in ("answer", "other")
    )
    return (
        [experiment_pb2.PromptPair(clean=prompt(pair.clean), corrupted=prompt(pair.corrupted)) for pair in pairs],
        experiment_pb2.Metric(logit_difference=experiment_pb2.LogitDifference(answers=answers, others=others)),
    )


@pytest.fixture(scope="module")
def patched(client: AnalysisClient) -> DiscoveryResult:
    return searched(client, "edge-patching", count=4, evaluation=EVERYTHING)


def auroc(scores: NDArray[np.float32], names: list[str]) -> float:
    """How often an edge of the circuit has a larger magnitude than one outside."""
    inside = np.abs([score for score, name in zip(scores, names, strict=True) if name in CIRCUIT])
    outside = np.abs([score for score, name in zip(scores, names, strict=True) if name not in CIRCUIT])
    return float((inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean())


def listed(result: DiscoveryResult) -> tuple[NDArray[np.float32], list[str]]:
    """Scores of all edges, and their names."""
    graph, scores = result.circuit.graph, result["edge_score"].values
    return scores[graph.mask], ["->".join(edge) for edge in graph.edge_pairs(graph.mask)]


def test_edge_patching_is_exact(folder: Path, patched: DiscoveryResult) -> None:
    """Every edge has the effect that an independent float64 forward pass gives."""
    scores, names = listed(patched)
    assert auroc(scores, names) == 1.0
    expected = np.zeros(len(names))
    for pair in asked(PAIRS):
        paths, other = Paths(folder, pair.clean), Paths(folder, pair.corrupted).run().written
        clean = paths.run()
        metric = clean.logits[-1, pair.answer] - clean.logits[-1, pair.other]
        found = {}
        for sender, receiver in clean.edges():
            logits = paths.run(changed={receiver: {sender: other[sender]}}).logits[-1]
            found[f"{_name(sender)}->{_name(receiver)}"] = logits[pair.answer] - logits[pair.other] - metric
        expected += [found[name] / PAIRS for name in names]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def _name(node: tuple[str, int | None, int | None]) -> str:
    component, layer, head = node
    slot = {"q_proj": "<q>", "k_proj": "<k>", "value": "<v>"}.get(component, "")
    if head is not None:
        return f"a{layer}.h{head}{slot}"
    return {"resid_pre": "input", "logits": "logits"}.get(component, f"m{layer}")


SEARCHES: dict[str, dict[str, Any]] = {
    "acdc": {"threshold": 1.0},
    "acdc by itself": {},
    "edge-patching": {"threshold": 1.0},
    "eap-ig": {"count": 4},
    "eap-ig to faithfulness": {"faithfulness": 0.99},
    "path-patching": {"count": 4},
}


@pytest.mark.parametrize("case", SEARCHES)
def test_every_method_returns_the_circuit_and_no_decoy(client: AnalysisClient, case: str) -> None:
    method = case.split()[0]
    result = searched(client, method, evaluation=EVERYTHING, **SEARCHES[case])
    assert result.is_found, result.reason
    assert set(result.circuit.edges) == CIRCUIT
    assert set(result.circuit.nodes) == NODES
    measured = result.circuit.evaluation
    assert measured is not None
    print(case, measured)
    assert measured.faithfulness == pytest.approx(1, abs=0.01)
    assert measured.faithfulness_standard_error < 0.01
    assert measured.completeness == pytest.approx(1, abs=0.01)
    assert measured.minimality == 1
    assert all(edge.removal_effect > 0.3 for edge in result.circuit.edges.values())


def test_eap_ig_is_edge_patching(client: AnalysisClient, patched: DiscoveryResult) -> None:
    exact, names = listed(patched)
    found = {}
    for method, steps in (("eap", 0), ("eap-ig", 5)):
        result = searched(client, method, steps=steps, evaluation=pb.EvaluationOptions(skip=True))
        found[method] = listed(result)[0]
        print(method, auroc(found[method], names), np.corrcoef(found[method], exact)[0, 1])
    assert auroc(found["eap-ig"], names) == 1.0
    assert np.corrcoef(found["eap-ig"], exact)[0, 1] >= 0.99
    assert np.corrcoef(found["eap"], exact)[0, 1] < np.corrcoef(found["eap-ig"], exact)[0, 1]


def test_nodes_by_patching(client: AnalysisClient) -> None:
    """By gradients a head before a saturated pattern is not seen, as by EAP."""
    result = searched(client, "activation-patching", count=3, evaluation=pb.EvaluationOptions(completeness=True))
    assert set(result.circuit.nodes) == NODES
    scores = dict(zip(result["node_score"].coords["sender"], result["node_score"].values.tolist(), strict=True))
    measured = result.circuit.evaluation
    assert measured is not None
    assert measured.faithfulness == pytest.approx(1, abs=0.01)
    assert scores["input"] == pytest.approx(measured.corrupted - measured.clean, rel=1e-4), "all of it passes there"
    gradients = searched(client, "attribution-patching", count=3, evaluation=pb.EvaluationOptions(skip=True))
    by_gradient = gradients["node_score"].sel(sender="a1.h0").values
    assert by_gradient == pytest.approx(scores["a1.h0"], rel=0.05), "the logits are linear in what the last head writes"


def test_the_curve_and_its_areas(patched: DiscoveryResult) -> None:
    measured = patched.circuit.evaluation
    assert measured is not None
    sizes = [point.size for point in measured.curve]
    assert sizes == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    heights = np.array([point.faithfulness for point in measured.curve])
    assert heights[0] == pytest.approx(0, abs=0.01), "a single edge is no path"
    assert heights[-1] == pytest.approx(1, abs=1e-5), "everything is the clean run"
    assert measured.cpr == pytest.approx(np.trapezoid(heights, sizes), abs=1e-6)
    assert measured.cmd == pytest.approx(np.trapezoid(np.abs(1 - heights), sizes), abs=1e-6)
    assert [point.size for point in patched.points] == sizes, "each point is told as it comes"


def test_a_circuit_is_evaluated_on_other_prompts(client: AnalysisClient, patched: DiscoveryResult) -> None:
    """Its edges outside of the circuit are worth nothing there, too, and half of it is half as good."""
    prompts, metric = questions(asked(6, seed=9))
    for edges, faithfulness in ((CIRCUIT, 1.0), (CIRCUIT - {"input->a0.h0<v>"}, None)):
        circuit = patched.circuit.with_edges(edges).message
        request = pb.EvaluateCircuitRequest(
            model_id=PLANTED, pairs=prompts, metric=metric, circuit=circuit, evaluation=EVERYTHING
        )
        result = client.run(EvaluationResult(request), False)
        measured = result.circuit.evaluation
        assert measured is not None
        assert measured.dataset.pair_count == 6
        assert len(measured.curve) == 10
        if faithfulness is None:
            assert measured.faithfulness < 0.7
            assert measured.minimality < 1, "without its beginning the first head carries nothing"
        else:
            assert measured.faithfulness == pytest.approx(faithfulness, abs=0.01)
            assert set(result.circuit.edges) == CIRCUIT


def test_a_part_of_the_curve_has_no_area(client: AnalysisClient, patched: DiscoveryResult) -> None:
    prompts, metric = questions(asked(2, seed=9))
    evaluation = pb.EvaluationOptions(curve=True, curve_sizes=[0.1, 0.5])
    request = pb.EvaluateCircuitRequest(
        model_id=PLANTED, pairs=prompts, metric=metric, circuit=patched.circuit.message, evaluation=evaluation
    )
    measured = client.run(EvaluationResult(request), False).circuit.evaluation
    assert measured is not None
    assert [point.size for point in measured.curve] == [0.1, 0.5]
    assert not measured.HasField("cpr")
    assert not measured.HasField("cmd")


@pytest.mark.parametrize("method", METHODS)
def test_the_null_model_has_no_circuit(client: AnalysisClient, method: str) -> None:
    result = searched(client, method, model_id=NULL)
    assert not result.is_found
    assert "the mean difference between clean and corrupted runs is" in result.reason
    assert result.circuit.edges == {}
    assert not result.circuit.message.HasField("evaluation")
    assert np.isnan(result["node_score" if "node_score" in result.names else "edge_score"].values).all()


def test_prompts_that_make_no_difference_have_no_circuit(client: AnalysisClient) -> None:
    """The answer is compared with a token that neither prompt goes on with; or both prompts are the same."""
    pairs = [Asked(pair.clean, pair.clean, pair.answer, pair.other) for pair in asked(PAIRS)]
    result = searched(client, "acdc", pairs)
    assert not result.is_found
    assert re.search(r"between clean and corrupted runs is -?0,", result.reason)
    mixed = [
        Asked(pair.clean, pair.corrupted, *((pair.answer, pair.other)[:: -1 if number % 2 else 1]))
        for number, pair in enumerate(asked(PAIRS))
    ]
    result = searched(client, "eap-ig", mixed)
    assert not result.is_found
    assert f"over {PAIRS} pairs noise explains" in result.reason
    assert searched(client, "eap-ig", mixed, effect_test=pb.EffectTest(skip=True)).is_found
