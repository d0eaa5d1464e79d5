"""Attributions through a running service: what clients see of them, what is refused, how they are kept.

python -m pytest tests/integration/test_attributions.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import AsyncClient, Client, errors
from neuroscope.experiments import Attribution, AttributionResult, kl_divergence, logit_diff, rank
from neuroscope.v1 import experiment_pb2 as pb
from tests.support.services import Service
from tests.support.shell import neuroscope
from tests.truth.induction.model import CIRCUIT, build
from tests.truth.induction.prompts import asked

CLEAN = [0, 141, 59, 26, 53, 58, 97, 93, 23, 84]
CORRUPTED = [0, 18, 28, 18, 28, 45, 90, 45, 23, 53]
METRIC = logit_diff(7, 9)


@pytest.fixture(scope="module")
def client(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as client:
        yield client


def test_places_have_named_axes(client: Client) -> None:
    reports: list[pb.AttributionProgress] = []
    result = client.attribute(CLEAN, CORRUPTED, metric=METRIC, progress=reports.append)
    assert result.names == ["resid_pre", "head_output", "mlp_out"]
    heads = result["head_output"]
    assert heads.sizes == {"layer": 4, "position": 10, "head": 8}
    assert reports[-1].passes_done == reports[-1].pass_count == 2
    assert len(result.tokens) == 10
    name, place, value = result.top(1)[0]
    assert result[name].sel(**place).values == pytest.approx(value)
    shares = heads.normalised()
    assert shares.values * (heads.clean - heads.corrupted) == pytest.approx(heads.values, abs=1e-5)
    assert "head_output" in repr(heads)
    assert result.table().row_count == 10


def test_a_score_is_what_a_small_patch_does(client: Client) -> None:
    """Behind the last block lies but the norm: there a sweep and the gradient nearly agree, and have one sign."""
    nodes = client.attribute(CLEAN, CORRUPTED, metric=METRIC, into="corrupted", sites=["resid_post.3:position"])
    swept = client.patch(CLEAN, CORRUPTED).site("resid_post", layers=[3], positions=[9]).run(METRIC)
    effect = float(swept.scores.effects().values.reshape(-1)[0])
    assert np.sign(nodes.values[0, 9]) == np.sign(effect)


def test_edges_are_named(client: Client, tmp_path: Path) -> None:
    result = client.attribute(CLEAN, CORRUPTED, metric=METRIC, method="eap-ig", steps=3)
    edges = result["edges"]
    assert edges.dims == ("sender", "receiver")
    assert edges.coords["sender"][:2] == ["input", "a0.h0"]
    assert edges.coords["receiver"][-1] == "logits"
    assert np.isnan(edges.sel(sender="m3", receiver="a0.h0<q>").values)
    sender, receiver, value = result.top_edges(1)[0]
    assert edges.sel(sender=sender, receiver=receiver).values == pytest.approx(value)
    result.save(tmp_path / "edges.json")
    kept = AttributionResult.load(tmp_path / "edges.json")
    np.testing.assert_array_equal(kept["edges"].values, edges.values)
    result.attribution.save(tmp_path / "attribution.json")
    again = client.attribute(Attribution.load(tmp_path / "attribution.json"))
    np.testing.assert_allclose(again["edges"].values, edges.values, atol=1e-5)
    assert result.plot(tmp_path / "edges.png") is not None


def test_inputs_and_pairs(client: Client) -> None:
    result = client.attribute([CLEAN, CORRUPTED], metric=METRIC, method="integrated-gradients", each_pair=True)
    assert result["inputs"].dims == ("pair", "position")
    assert len(result.completeness) == 2
    assert result.completeness_gap > 0
    alone = client.attribute(CORRUPTED, metric=METRIC, method="integrated-gradients")
    np.testing.assert_allclose(result["inputs"].sel(pair=1).values, alone.values, atol=1e-4)


async def test_both_clients_agree(inference: Service, client: Client) -> None:
    async with AsyncClient(inference.target) as other:
        found = await other.attribute(CLEAN, CORRUPTED, metric=METRIC, method="eap")
    here = client.attribute(CLEAN, CORRUPTED, metric=METRIC, method="eap")
    np.testing.assert_allclose(found.values, here.values, atol=1e-5)


BAD: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"metric": rank(7)}, "metric.rank", "has no gradient"),
    ({"metric": kl_divergence()}, "metric.kl_divergence", "gradient is zero"),
    ({"corrupted": CORRUPTED[:4]}, "pairs[0].corrupted", "10 and 4 tokens"),
    ({"corrupted": None, "method": "eap-ig"}, "pairs[0].corrupted", "no corrupted prompt"),
    ({"sites": ["resid_post:nose"]}, "sites", "no axis"),
    ({"sites": ["expert_indices"]}, "nodes.sites[0].site.component", "expert_indices"),
    ({"method": "eep"}, "method", "no method"),
    ({"method": "eap", "steps": 4}, "steps", "one step"),
    ({"method": "eap", "sites": ["mlp_out"]}, "sites", "takes no sites"),
    ({"into": "neither"}, "into", "not 'neither'"),
    ({"metric": None}, "metric", "missing"),
    ({"model_id": "nobody"}, "model_id", "nobody"),
)


@pytest.mark.parametrize(("changes", "field", "text"), BAD, ids=[f"{field}: {text}" for _, field, text in BAD])
def test_bad_input(client: Client, changes: dict[str, Any], field: str, text: str) -> None:
    asked_for: dict[str, Any] = {"corrupted": CORRUPTED, "metric": METRIC} | changes
    with pytest.raises(errors.MLXIntegrationError, match=text) as refused:
        client.attribute(CLEAN, **asked_for)
    assert refused.value.field == field


def test_the_planted_circuit_in_a_running_service(client: Client, tmp_path: Path) -> None:
    pairs = asked(4)
    answers, others = ([getattr(pair, name) for pair in pairs] for name in ("answer", "other"))
    model_id = client.load_model(build(tmp_path / "induction")).model_id
    try:
        result = client.attribute(
            [pair.clean for pair in pairs],
            [pair.corrupted for pair in pairs],
            metric=logit_diff(answers, others).normalised(),
            method="eap-ig",
            model_id=model_id,
        )
    finally:
        client.unload_model(model_id)
    names: dict[tuple[str, int | None, int | None], str] = {
        ("resid_pre", 0, None): "input",
        ("logits", None, None): "logits",
    }
    kinds = {"q_proj": "<q>", "k_proj": "<k>", "value": "<v>", "head_output": ""}

    def named(node: tuple[str, int | None, int | None]) -> str:
        return names.get(node) or f"a{node[1]}.h{node[2]}{kinds[node[0]]}"

    strongest = {(sender, receiver) for sender, receiver, _ in result.top_edges(len(CIRCUIT))}
    assert strongest == {(named(sender), named(receiver)) for sender, receiver in CIRCUIT}


def test_the_command(inference: Service, tmp_path: Path) -> None:
    prompts = ["one two three", "one six three", "-a", "#7", "--other", "#9"]
    kept = tmp_path / "result.json"
    pictures = ["--save", kept, "--save", tmp_path / "p.png", "-s", "head_output:head", "-s", "mlp_out"]
    shown = neuroscope("attribute", *prompts, *pictures, target=inference.target)
    assert shown.exit_code == 0, shown.stderr
    assert "head_output" in shown.stdout
    assert (tmp_path / "p-head_output.png").exists()
    again = neuroscope("attribute", *prompts, "--method", "eap", "--json", target=inference.target)
    assert again.exit_code == 0, again.stderr
    assert AttributionResult.from_json(json.loads(again.stdout)).names == ["edges"]
    assert AttributionResult.load(kept)["head_output"].sizes == {"layer": 4, "head": 8}
    wrong = neuroscope("attribute", *prompts, "--method", "nothing", target=inference.target)
    assert wrong.exit_code == 1
    assert "nothing" in wrong.stderr


def body(**changes: Any) -> dict[str, Any]:
    return {
        "pairs": [{"clean": CLEAN, "corrupted": CORRUPTED}],
        "metric": {"kind": "logit_difference", "answers": [7], "others": [9]},
    } | changes


def test_over_http(gateway: Service, client: Client) -> None:
    url = f"{gateway.target}/v1/experiments/attributions"
    answered = httpx.post(url, json=body(method="eap-ig", steps=2), timeout=60)
    assert answered.status_code == 200, answered.text
    (edges,) = answered.json()["scores"]
    here = client.attribute(CLEAN, CORRUPTED, metric=METRIC, method="eap-ig", steps=2)["edges"]
    assert edges["coords"]["receiver"] == here.coords["receiver"]
    found = np.array([[np.nan if x is None else x for x in row] for row in edges["values"]])
    np.testing.assert_allclose(found, here.values, atol=1e-4)
    lines = httpx.post(url, json=body(stream=True, sites=["mlp_out:position"]), timeout=60).text.splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert (kinds[0], kinds[-2:]) == ("plan", ["end", "scores"])
    refused = httpx.post(url, json=body(method="integrated"), timeout=60)
    assert refused.status_code == 422 or refused.status_code == 400
    refused = httpx.post(url, json=body(metric={"kind": "rank", "answers": [7]}), timeout=60)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "metric.rank"


def test_sums_of_metrics_and_projections_over_http(gateway: Service) -> None:
    """A gradient of a sum is the sum of gradients, and so are sweeps' values; over HTTP as everywhere."""
    direction = np.cos(np.arange(128)).tolist()
    kinds: list[dict[str, Any]] = [
        {"kind": "logit_difference", "answers": [7], "others": [9]},
        {"kind": "log_probability", "answers": [11]},
    ]
    summed = {"terms": [{"weight": 2.0, "metric": kinds[0]}, {"weight": -0.5, "metric": kinds[1]}]}

    def nodes(metric: dict[str, Any]) -> np.ndarray:
        asked_for = body(metric=metric, sites=["mlp_out:position"])
        answer = httpx.post(f"{gateway.target}/v1/experiments/attributions", json=asked_for, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["scores"][0]["values"], np.float64)

    def patched(metric: dict[str, Any]) -> np.ndarray:
        asked_for = body(metric=metric, grids=[{"component": "mlp_out"}])
        answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=asked_for, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["grids"][0]["values"], np.float64)

    for measured in (nodes, patched):
        one, other = (measured(kind) for kind in kinds)
        np.testing.assert_allclose(measured(summed), 2.0 * one - 0.5 * other, atol=1e-5)
    projection = {"kind": "projection", "direction": direction}
    tripled = {"kind": "projection", "direction": [3 * value for value in direction]}
    np.testing.assert_allclose(nodes(tripled), 3 * nodes(projection), rtol=1e-4, atol=1e-6)
    assert np.abs(nodes(projection)).max() > 1e-3
    url = f"{gateway.target}/v1/experiments/attributions"
    narrow = httpx.post(url, json=body(metric={"kind": "projection", "direction": [1.0, 2.0]}), timeout=60)
    assert narrow.status_code == 400
    assert narrow.json()["error"]["param"].startswith("metric")
