"""Presets and scenarios of real models, and models that are freed.

python -m pytest tests/integration/test_gateway_presets.py
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.model_info import ModelInfo
from neuroscope_gateway.schemas.presets import Preset, PresetName, evenly_spaced_layers
from tests.support.random_models import make_model
from tests.support.services import inference_service, running

PRESETS = "/v1/activations/presets"
ACTIVATIONS = "/v1/chat/completions/with_activations"
FAMILIES = ("llama", "gpt2", "gpt_oss")


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    """A gateway before a llama of 6 layers, a gpt2, and one with experts."""
    folder = tmp_path_factory.mktemp("presets")
    models = [make_model("llama", folder / "llama", num_hidden_layers=6)]
    models += [make_model(family, folder / family) for family in FAMILIES[1:]]
    with (
        inference_service(*models) as inference,
        running("neuroscope_gateway", "--port", "0", "--inference", inference.target) as gateway,
        httpx.Client(base_url=gateway.target, timeout=120) as client,
    ):
        yield client


def get(http: httpx.Client, path: str, **query: Any) -> Any:
    response = http.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("model", FAMILIES)
def test_every_preset_runs_as_it_is(http: httpx.Client, model: str) -> None:
    listing = get(http, PRESETS, model=model)
    assert [preset["name"] for preset in listing["presets"]] == [
        "circuit_discovery",
        "attention_analysis",
        "mlp_analysis",
        "residual_stream",
        "comprehensive",
    ]
    for preset in listing["presets"]:
        assert preset["model"] == model
        hooks = preset["activation_hooks"]
        assert hooks or preset["unavailable"]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
            "activation_hooks": hooks,
        }
        response = http.post(ACTIVATIONS, json=body)
        assert response.status_code == 200, response.text
        assert set(response.json()["activations"]) == {hook["hook_id"] for hook in hooks}


def test_presets_are_made_for_the_models_layers(http: httpx.Client) -> None:
    for model, layers in {"llama": 6, "gpt2": 4}.items():
        preset = get(http, f"{PRESETS}/circuit_discovery", model=model)
        assert [(hook["layer_name"], hook["component"]) for hook in preset["activation_hooks"]] == [
            (f"transformer.h.{layer}", component)
            for layer in range(layers)
            for component in ("residual", "attention", "mlp")
        ]
    some = get(http, f"{PRESETS}/mlp_analysis", model="llama", layers=[1, 4])
    assert some["layers"] == [1, 4]
    assert [(hook["hook_id"], hook["capture_input"]) for hook in some["activation_hooks"]] == [
        ("mlp_1", True),
        ("mlp_4", True),
    ]


def test_what_a_model_has_not_is_said_with_its_reason() -> None:
    """A model of two layers, the second of which has no attention."""
    names = ("attention_pattern", "query", "key", "value", "attn_out")
    points = [
        pb.HookPoint(
            site=site_pb2.Site(component=name, layer=layer, side=site_pb2.SIDE_OUTPUT),
            available=not layer or name == "attn_out",
            reason="a state-space layer has no heads",
        )
        for layer in range(2)
        for name in names
    ]
    info = ModelInfo(pb.GetModelResponse(model=pb.Model(model_id="m", num_layers=2), points=points))
    preset = Preset.of(PresetName.ATTENTION_ANALYSIS, info)
    assert [hook.hook_id for hook in preset.activation_hooks if str(hook.hook_id).endswith("_1")] == ["attention_1"]
    assert len(preset.activation_hooks) == 6
    assert {(item.layer_name, item.reason) for item in preset.unavailable} == {
        ("transformer.h.1", "a state-space layer has no heads")
    }
    assert Preset.of(PresetName.MLP_ANALYSIS, info).unavailable[0].reason == "; ".join(
        f"this model has no {name}" for name in ("mlp_out.0.input", "mlp_out.0")
    )


@pytest.mark.parametrize("model", FAMILIES)
def test_every_scenario_runs_as_it_is(http: httpx.Client, model: str) -> None:
    found = get(http, PRESETS, model=model)["scenarios"]
    assert {scenario["name"] for scenario in found} == {
        "mathematical_reasoning",
        "factual_recall",
        "creative_writing",
        "attention_patterns",
        "residual_stream",
    }
    for scenario in found:
        for body in scenario["requests"]:
            response = http.post(ACTIVATIONS, json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            assert set(answer["activations"]) == {hook["hook_id"] for hook in body["activation_hooks"]}
            assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("path", "query", "status", "param"),
    [
        ("/nothing", {}, 400, "name"),
        ("/mlp_analysis", {"model": "nobody"}, 404, "model"),
        ("/mlp_analysis", {"model": "gpt2", "layers": [0, 9]}, 400, "layers[1]"),
        ("/mlp_analysis", {"layers": ["x"]}, 400, "layers[0]"),
        ("/mlp_analysis", {"layers": [-1]}, 400, "layers[0]"),
    ],
)
def test_mistakes(http: httpx.Client, path: str, query: dict[str, Any], status: int, param: str) -> None:
    response = http.get(PRESETS + path, params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


def test_scenarios_spread_over_the_layers() -> None:
    assert evenly_spaced_layers(32) == [0, 8, 16, 23, 31]
    assert evenly_spaced_layers(5) == [0, 1, 2, 3, 4]
    assert evenly_spaced_layers(2) == [0, 1]
    assert evenly_spaced_layers(1) == [0]


def test_a_model_is_freed(http: httpx.Client, tmp_path: Path) -> None:
    path = make_model("llama", tmp_path / "passing")
    assert http.post("/v1/models/load", json={"model_path": str(path)}).status_code == 200
    assert http.delete("/v1/models/passing").json() == {"id": "passing", "object": "model", "deleted": True}
    assert "passing" not in [model["id"] for model in http.get("/v1/models").json()["data"]]
    response = http.delete("/v1/models/passing")
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")


def test_a_hook_without_a_name_gets_one(http: httpx.Client) -> None:
    hooks = [{"layer_name": "transformer.h.1", "component": "mlp"}, {"component": "embedding"}]
    try:
        ids = http.post("/v1/activations/hooks", json=hooks).json()["registered_hooks"]
        assert len(set(ids)) == 2
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        mixed = [ids[0], {"layer_name": "transformer.h.2", "component": "mlp"}]
        found = http.post(ACTIVATIONS, json=body | {"activation_hooks": mixed}).json()["activations"]
        assert ids[0] in found
        assert len(found) == 2
        cleared = http.request("DELETE", "/v1/activations/hooks", json={"hook_ids": [ids[1]]}).json()
        assert cleared["cleared_hooks"] == [ids[1]]
    finally:
        assert http.delete("/v1/activations/hooks").status_code == 200
