"""Circuits from every surface: SDK, event loop, REST, shell; and what each refuses.

python -m pytest tests/integration/test_circuit_surfaces.py
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import Client
from neuroscope import experiments as ex
from neuroscope.analysis import AnalysisClient, AsyncAnalysisClient, DiscoveryResult
from neuroscope.circuits import Circuit, ComponentGraph
from neuroscope.datasets import NAMED, Dataset
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_gateway.schemas import circuits
from tests.support.services import Service
from tests.support.shell import neuroscope

MODEL = "neuroscope-tiny"
FEW: dict[str, Any] = {"pairs": 6, "model_id": MODEL}
PAIR = {
    "clean": "The capital of France is",
    "corrupted": "The capital of Italy is",
    "answer": " Paris",
    "other": " Rome",
}


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


@pytest.fixture(scope="module")
def rest(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def pairs(client: AnalysisClient) -> Dataset:
    return client.dataset("facts", count=6, model_id=MODEL)


@pytest.fixture(scope="module")
def found(client: AnalysisClient, pairs: Dataset) -> DiscoveryResult:
    return client.discover_circuit(pairs, size=0.2, curve_sizes=[0.05, 0.5], model_id=MODEL)


def without_times(circuit: Circuit) -> pb.Circuit:
    """What two searches for the same share."""
    message = pb.Circuit()
    message.CopyFrom(circuit.message)
    for name in ("created_at_ms", "elapsed_seconds", "forward_passes"):
        message.provenance.ClearField(name)
    return message


# ------------------------------------------------------------------------------------------------ the SDK


def test_a_search_gives_a_circuit_with_its_provenance_and_scores(found: DiscoveryResult, pairs: Dataset) -> None:
    circuit = found.circuit
    told = circuit.provenance
    assert (told.source, told.dataset.name, told.dataset.pair_count) == ("discovery", "facts", 6)
    assert told.dataset.content_hash == pairs.content_hash
    assert told.search.method == pb.CIRCUIT_METHOD_EAP_IG
    assert told.metric == pairs.metric().message
    assert told.versions["neuroscope"]
    assert (circuit.model.model_id, circuit.model.layer_count, circuit.model.key_value_head_count) == (MODEL, 4, 4)
    scores = found["edge_score"]
    assert scores.dims == ("sender", "receiver")
    assert scores.sel(sender="input", receiver="a0.h0<q>").values == pytest.approx(
        circuit.all_edges["input->a0.h0<q>"].score, rel=1e-5
    )
    assert (
        np.isfinite(scores.values).sum()
        == circuit.message.edge_count
        == ComponentGraph.from_model(circuit.model).edge_count
    )
    assert [point.size for point in found.points] == [0.05, 0.5]
    assert circuit.strongest(size=0.2).edges.keys() == circuit.edges.keys()


def test_the_default_is_the_smallest_faithful_circuit_with_its_stability(
    client: AnalysisClient, pairs: Dataset
) -> None:
    found = client.discover_circuit(pairs, resample_count=20, model_id=MODEL)
    circuit, measured = found.circuit, found.circuit.evaluation
    assert circuit.provenance.search.faithfulness == 0.9
    assert measured is not None
    assert measured.faithfulness >= 0.9
    smaller = [point for point in measured.curve if point.edge_count < len(circuit.edges)]
    assert smaller
    assert all(point.faithfulness < 0.9 and point.HasField("faithfulness_standard_error") for point in smaller)
    assert sorted(point.size for point in found.points) == [point.size for point in measured.curve]
    assert measured.stability.resample_count == 20
    assert 0 < measured.stability.jaccard_low <= measured.stability.jaccard <= measured.stability.jaccard_high <= 1
    assert all(0 <= edge.inclusion <= 1 for edge in circuit.edges.values())
    assert np.mean([edge.inclusion for edge in circuit.edges.values()]) > 0.5
    again = client.discover_circuit(pairs, count=len(circuit.edges), resample_count=0, model_id=MODEL).circuit
    assert again.evaluation is not None
    assert not again.evaluation.HasField("stability")


def test_a_result_survives_a_file(found: DiscoveryResult, tmp_path: Path) -> None:
    found.save(tmp_path / "found.json")
    again = DiscoveryResult.load(tmp_path / "found.json")
    assert again.circuit == found.circuit
    np.testing.assert_array_equal(again["edge_score"].values, found["edge_score"].values)


def test_an_event_loop_gets_the_same(analysis: Service, pairs: Dataset, found: DiscoveryResult) -> None:
    async def search() -> DiscoveryResult:
        async with AsyncAnalysisClient(analysis.target) as client:
            fitted = await client.dataset("facts", count=6, model_id=MODEL)
            assert fitted.content_hash == pairs.content_hash
            result = await client.discover_circuit(fitted, size=0.2, curve_sizes=[0.05, 0.5], model_id=MODEL)
            tried = await client.evaluate_circuit(result.circuit, fitted, model_id=MODEL)
            assert tried.circuit.evaluation is not None
            return result

    assert without_times(asyncio.run(search()).circuit) == without_times(found.circuit)


def test_a_circuit_from_a_file_of_another_tool_is_evaluated(
    client: AnalysisClient, pairs: Dataset, found: DiscoveryResult
) -> None:
    foreign = Circuit.from_text(found.circuit.to_text("mib"))
    tried = client.evaluate_circuit(foreign, pairs, minimality=True, model_id=MODEL).circuit
    measured, before = tried.evaluation, found.circuit.evaluation
    assert measured is not None
    assert before is not None
    assert measured.faithfulness == pytest.approx(before.faithfulness, abs=1e-4)
    assert 0 <= measured.minimality <= 1
    assert all(edge.HasField("removal_effect") for edge in tried.edges.values())


def test_circuits_are_made_of_attributions_and_sweeps(
    inference: Service, pairs: Dataset, found: DiscoveryResult
) -> None:
    with Client(inference.target) as below:
        info, metric = below.model(MODEL), pairs.metric()
        scored = below.attribute(pairs.clean, pairs.corrupted, metric=metric, method="eap-ig", model_id=MODEL)
        heads = below.patch(pairs.clean, pairs.corrupted, into="clean", model_id=MODEL).heads().mlps(positions=None)
        patched = heads.run(metric=metric)
        paths = below.patch(pairs.clean, pairs.corrupted, into="clean", model_id=MODEL)
        direct = paths.paths(["heads"], ["logits"]).run(metric=metric)
    for model in (None, info):
        circuit = Circuit.from_attribution(scored, model=model, size=0.2)
        assert circuit.edges.keys() == found.circuit.edges.keys()
        assert circuit.model.head_count == 8
    nodes = Circuit.from_sweep(patched, model=info, count=5)
    strongest = sorted(nodes.node_scores, key=lambda name: -abs(nodes.node_scores[name]))[:5]
    assert set(nodes.nodes) <= {"input", "logits", *strongest}
    assert set(nodes.node_scores) == set(found.circuit.all_nodes) - {"input", "logits"}
    by_paths = Circuit.from_sweep(direct, model=info, count=3, prune=False)
    assert all(edge.endswith("->logits") for edge in by_paths.edges)
    assert by_paths.provenance.search.method == pb.CIRCUIT_METHOD_PATH_PATCHING
    with pytest.raises(InvalidRequestError, match=r"model=client\.model"):
        Circuit.from_attribution(_places(scored))


def _places(scored: Any) -> Any:
    class Nodes:
        plan, attribution, names = scored.plan, scored.attribution, ("head_output",)

    return Nodes()


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        ({"dataset": "iou"}, "dataset", "nearest: ioi"),
        ({"dataset": []}, "dataset", "is empty"),
        ({"dataset": [PAIR | {"corrupted": "The capital city of Italy is"}]}, "dataset[0].corrupted", "6 tokens and"),
        ({"dataset": [PAIR, PAIR | {"answer": " Parisian"}]}, "dataset[1].answer", "tokens, not one: '·P', 'ar'"),
        ({"size": 0.0}, "size", "above 0 and at most 1"),
        ({"size": 1.5}, "size", "above 0 and at most 1"),
        ({"threshold": -0.1}, "threshold", "a number from 0"),
        ({"threshold": float("nan")}, "threshold", "a number from 0"),
        ({"faithfulness": 2.0}, "faithfulness", "above 0 and at most 1"),
        ({"count": 100_000}, "search.count", "1055 edges"),
        ({"size": 0.1, "count": 3}, "size, count", "has one of"),
        ({"method": "eap_ig"}, "method", "nearest: eap-ig"),
        ({"granularity": "edge"}, "granularity", "nearest: edges"),
        ({"into": "cleen"}, "into", "nearest: clean"),
        ({"curve_sizes": [0.1, 2]}, "curve_sizes[1]", "above 0 and at most 1"),
        ({"method": "acdc", "size": 0.2}, "search.size", "threshold only"),
        ({"method": "acdc", "threshold": 0.0}, "search.threshold", "above 0"),
        ({"method": "activation-patching", "granularity": "edges"}, "search.granularity", "scores nodes"),
        ({"metric": ex.rank(5)}, "metric.rank", "no gradient"),
        ({"model_id": "nobody"}, "model_id", "nobody"),
    ],
)
def test_a_bad_search_is_refused(client: AnalysisClient, asked: dict[str, Any], field: str, message: str) -> None:
    arguments: dict[str, Any] = {"dataset": [PAIR], "model_id": MODEL} | asked
    with pytest.raises(Exception, match=message) as refused:
        client.discover_circuit(**arguments)
    assert refused.value.field == field  # type: ignore[attr-defined]


def test_prompts_that_make_no_difference_have_no_circuit(client: AnalysisClient) -> None:
    """The other token is as likely after both prompts: words that the answers do not depend on."""
    same = [
        PAIR
        | {
            "clean": f"dog {word} cat The capital of France is",
            "corrupted": f"dog {word} bird The capital of France is",
        }
        for word in ("red", "big", "blue", "green", "small", "tree")
    ]
    found = client.discover_circuit(same, least_effect=5.0, model_id=MODEL)
    assert not found.is_found
    assert found.reason
    assert not found.circuit.edges
    assert "no effect" in str(found.table().caption)


# ------------------------------------------------------------------------------------------------ REST


def test_rest_finds_the_same(rest: httpx.Client, found: DiscoveryResult) -> None:
    body = {"model": MODEL, "dataset": "facts", "pair_count": 6, "size": 0.2, "curve_sizes": [0.05, 0.5]}
    answer = rest.post("/v1/analysis/circuits", json=body).json()
    assert (answer["object"], answer["model"], answer["is_found"]) == ("circuit_discovery", MODEL, True)
    assert without_times(Circuit.from_json(answer["circuit"])) == without_times(found.circuit)
    with rest.stream("POST", "/v1/analysis/circuits", json=body | {"stream": True}) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = list(streamed.iter_lines())
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "plan"
    assert kinds[-1] == "result"
    assert {"progress", "baseline", "point"} <= set(kinds)
    assert without_times(Circuit.from_json(events[-1]["circuit"])) == without_times(found.circuit)


def test_the_graph_alone(rest: httpx.Client, inference: Service) -> None:
    """By REST and in the shell it is that of the client."""
    with Client(inference.target) as below:
        graph = below.edge_graph(model_id=MODEL)
    answer = rest.get("/v1/experiments/edge_graph", params={"model": MODEL}).json()
    told = json.loads(neuroscope("circuit", "graph", "--target", inference.target, "-m", MODEL, "--json").stdout)
    for one in (answer, told):
        assert (one["model"], one["edge_count"]) == (MODEL, graph.edge_count)
        assert one["senders"] == list(graph.senders)
        receivers = [(each["name"], each["sender_count"]) for each in one["receivers"]]
        assert receivers == list(zip(graph.receivers, graph.sender_counts, strict=True))
    shown = neuroscope("circuit", "graph", "--target", inference.target, "-m", MODEL).stdout
    assert f"logits reads {len(graph.senders)}: input to {graph.senders[-1]}" in shown
    refused = rest.get("/v1/experiments/edge_graph", params={"model": "nowhere"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")


def test_rest_evaluates_and_exports(rest: httpx.Client, found: DiscoveryResult) -> None:
    circuit = found.circuit.to_json()
    body = {"model": MODEL, "circuit": circuit, "pairs": [PAIR]}
    tried = rest.post("/v1/analysis/circuits/evaluate", json=body).json()
    assert tried["object"] == "circuit_evaluation"
    assert tried["circuit"]["evaluation"]["dataset"]["pair_count"] == 1
    for format, begins in (("mib", b'{"cfg"'), ("mermaid", b"flowchart"), ("svg", b"<?xml"), ("html", b"<!doctype")):
        written = rest.post("/v1/analysis/circuits/export", json={"circuit": circuit, "format": format})
        assert written.status_code == 200
        assert written.content.startswith(begins)
    dot = rest.post("/v1/analysis/circuits", json={"model": MODEL, "pairs": [PAIR], "format": "dot"})
    assert dot.headers["content-type"].startswith("text/vnd.graphviz")
    assert dot.text.startswith("digraph")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("", {}, "dataset"),
        ("", {"dataset": "ioi", "pairs": [PAIR]}, "dataset"),
        ("", {"dataset": "iou"}, "dataset"),
        ("", {"dataset": "/etc/passwd.jsonl"}, "dataset"),
        ("", {"pairs": []}, "pairs"),
        ("", {"pairs": [PAIR | {"corrupted": "The capital"}]}, "pairs[0].corrupted"),
        ("", {"pairs": [PAIR | {"answer": " Parisian"}]}, "pairs[0].answer"),
        ("", {"pairs": [PAIR], "size": 0}, "size"),
        ("", {"pairs": [PAIR], "threshold": -1}, "threshold"),
        ("", {"pairs": [PAIR], "count": 99_999}, "count"),
        ("", {"pairs": [PAIR], "method": "acdc", "size": 0.5}, "size"),
        ("", {"pairs": [PAIR], "format": "dot", "stream": True}, "format"),
        ("/evaluate", {"pairs": [PAIR], "circuit": {}}, "circuit"),
        ("/export", {"circuit": {"cfg": {"n_layers": 10**6, "n_heads": 10**6}, "nodes": {}, "edges": {}}}, "circuit"),
        ("/export", {"circuit": {}, "format": "dott"}, "format"),
    ],
)
def test_rest_refuses_what_is_wrong(rest: httpx.Client, route: str, body: dict[str, Any], param: str) -> None:
    answer = rest.post(f"/v1/analysis/circuits{route}", json=body if route == "/export" else {"model": MODEL} | body)
    assert answer.status_code == 400, answer.text
    assert param in str(answer.json()["error"]["param"]), answer.text


# ------------------------------------------------------------------------------------------------ the shell


def test_the_shell_finds_shows_exports_and_compares(analysis: Service, found: DiscoveryResult, tmp_path: Path) -> None:
    first, second, page = tmp_path / "first.json", tmp_path / "second.graphml", tmp_path / "first.html"
    search = ("analyze", "circuit", "--target", analysis.target, "-m", MODEL, "-d", "facts", "--pair-count", 6)
    run = neuroscope(*search, "--size", 0.2, "--save", first, "--save", page)
    assert run.exit_code == 0, run.stderr
    assert "faithfulness" in run.stdout
    assert Circuit.load(first).edges.keys() == found.circuit.edges.keys()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    small = Circuit.load(first).strongest(size=0.05)
    small.save(second)
    assert f"{len(small.edges)} of 1055 edges" in neuroscope("circuit", "show", second).stdout
    assert neuroscope("circuit", "export", first, "--format", "mermaid").stdout == found.circuit.to_text("mermaid")
    neuroscope("circuit", "export", first, "-o", tmp_path / "mib.json", "--format", "mib")
    assert Circuit.load(tmp_path / "mib.json").edges.keys() == found.circuit.edges.keys()
    compared = neuroscope("circuit", "compare", first, second, "--json", "--save", tmp_path / "both.png")
    told = json.loads(compared.stdout)
    assert told["edge_jaccard"] == pytest.approx(len(small.edges) / len(found.circuit.edges))
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    tried = neuroscope(*search, "--evaluate", second, "--json")
    assert json.loads(tried.stdout)["evaluation"]["faithfulness"] < 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("analyze", "circuit", "--save", "x.xyz"), "cannot be written: this command writes"),
        (("analyze", "circuit", "--evaluate", "nowhere.json"), "cannot be read"),
        (("circuit", "show", "nowhere.json"), "cannot be read"),
    ],
)
def test_the_shell_refuses_what_is_wrong(arguments: tuple[str, ...], told: str) -> None:
    run = neuroscope(*arguments)
    assert run.exit_code == 1
    assert told in run.stderr


def test_the_names_of_datasets_are_those_of_the_rest_interface() -> None:
    assert set(circuits.DatasetName.__args__) == set(NAMED)  # type: ignore[attr-defined]
