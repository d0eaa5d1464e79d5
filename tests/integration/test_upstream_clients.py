"""Clients of mlx-engine's NeuroScope integration before a real gateway, and ours under their names.

python -m pytest tests/integration/test_upstream_clients.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import errors
from neuroscope.integration import (
    LMStudioNeuroScopeClient,
    NeuroScopeActivationBridge,
    generate_neuroscope_smalltalk_interface,
)
from neuroscope.rest import ActivationHookSpec, RESTActivationCaptureClient
from tests.support.services import Service
from tests.support.upstream_clients import DemoClient, IntegrationClient

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is three plus four?"},
]


@pytest.fixture
def http(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=120) as client:
        yield client
        client.delete("/v1/activations/hooks")


@pytest.fixture
def client(gateway: Service) -> Iterator[LMStudioNeuroScopeClient]:
    with LMStudioNeuroScopeClient(gateway.target) as client:
        yield client
        client.clear_hooks()


def test_the_integrations_client(http: httpx.Client, llama_dir: Path) -> None:
    theirs = IntegrationClient(http)
    assert theirs.health_check()
    loaded = theirs.load_model(str(llama_dir))
    assert (loaded["model_id"], loaded["status"], loaded["supports_activations"]) == ("llama", "loaded", True)
    assert "llama" in [model["id"] for model in theirs.list_models()]
    hooks = NeuroScopeActivationBridge.create_hook_specs_for_circuit_analysis(4, ["residual", "attention"])
    assert theirs.register_hooks(hooks, "llama") == [hook["hook_id"] for hook in hooks]
    result = theirs.generate_with_activations(MESSAGES, hooks, max_tokens=3)
    assert isinstance(result["choices"][0]["message"]["content"], str)
    assert set(result["activations"]) == {hook["hook_id"] for hook in hooks}
    assert set(result["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert theirs.clear_hooks("llama")["status"] == "hooks cleared"


def test_the_demos_client(http: httpx.Client, llama_dir: Path) -> None:
    theirs = DemoClient(http)
    assert theirs.load_model(str(llama_dir), "llama")["model_id"] == "llama"
    assert theirs.chat_completion(MESSAGES, max_tokens=3)["choices"][0]["message"]["role"] == "assistant"
    hooks = [  # spelt as the demo spells them
        {
            "layer_name": "model.layers.0.self_attn",
            "component": "attention",
            "hook_id": "attention_layer_0",
            "capture_output": True,
        },
        {"layer_name": "model.layers.3.mlp", "component": "mlp", "hook_id": "mlp_layer_3", "capture_output": True},
    ]
    assert theirs.register_hooks(hooks, model="llama") == ["attention_layer_0", "mlp_layer_3"]
    response = theirs.chat_completion_with_activations(MESSAGES, hooks, max_tokens=3, temperature=0.7)
    assert response.status_code == 200, response.text
    activations = response.json()["activations"]
    piece = activations["mlp_layer_3"][0]
    assert (piece["component"], piece["layer_name"], piece["dtype"]) == ("mlp", "model.layers.3.mlp", "float32")
    assert np.shape(piece["data"]) == tuple(piece["shape"])
    streamed = theirs.chat_completion_with_activations(MESSAGES, hooks, max_tokens=3, stream=True)
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert theirs.clear_activation_hooks("llama")


def test_a_hook_of_a_model_that_is_not_there(http: httpx.Client) -> None:
    response = http.delete("/v1/activations/hooks", params={"model": "never"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize(
    "extra", [{"trust_remote_code": True}, {"vocab_only": True}, {"kv_bits": 4}, {"max_kv_size": 0}]
)
def test_what_a_load_does_not_do_is_refused_by_name(http: httpx.Client, llama_dir: Path, extra: dict[str, Any]) -> None:
    response = http.post("/v1/models/load", json={"model_path": str(llama_dir)} | extra)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(extra)))


def test_our_client_has_their_methods(client: LMStudioNeuroScopeClient, llama_dir: Path) -> None:
    assert client.health_check()
    assert client.load_model(llama_dir)["model_id"] == "llama"
    assert client.list_models()[0]["id"] == "llama"
    hook = {"layer_name": "transformer.h.2", "component": "attention"}
    result = client.generate_with_activations(MESSAGES, activation_hooks=[hook], max_tokens=2, temperature=0)
    assert isinstance(result["choices"][0]["message"]["content"], str)
    assert len(result["activations"]) == 1
    assert client.register_hooks([ActivationHookSpec("blocks.1", "mlp", "m")], model="llama") == ["m"]
    stream = client.generate_with_activations(MESSAGES, ["m"], max_tokens=2, temperature=0, stream=True, seed=1)
    lines = list(stream)
    assert [list(line["activations"]) for line in lines] == [["m"], ["m"], []]
    assert client.clear_hooks(model="llama") == {"status": "hooks cleared", "cleared_hooks": ["m"]}


def test_our_clients_errors_name_the_parameter(client: LMStudioNeuroScopeClient) -> None:
    with pytest.raises(errors.UnknownSiteError) as unknown:
        client.generate_with_activations(MESSAGES, [{"component": "residuals"}])
    assert unknown.value.field == "activation_hooks[0].component"
    with pytest.raises(errors.InvalidRequestError, match="brackets") as single:
        client.generate_with_activations(MESSAGES, {"component": "mlp"})  # type: ignore[arg-type]
    assert single.value.field == "activation_hooks"
    with pytest.raises(errors.ModelNotFoundError):
        client.clear_hooks("never")


def test_nobody_is_not_healthy() -> None:
    with LMStudioNeuroScopeClient("http://127.0.0.1:9", timeout=1) as client:
        assert client.health_check() is False


def test_the_bridges_hooks_all_capture(client: LMStudioNeuroScopeClient, gateway: Service) -> None:
    bridge = NeuroScopeActivationBridge()
    hooks = [*bridge.create_hook_specs_for_circuit_analysis(4), *bridge.create_attention_analysis_hooks(4, [0, 3])]
    answer = client.generate_with_activations(MESSAGES, hooks, max_tokens=2, temperature=0, activation_format="base64")
    converted = bridge.convert_activations_for_neuroscope(answer["activations"])
    assert set(converted) == {hook["hook_id"] for hook in hooks}
    one = converted["layer_3_attention_scores"][0]
    assert (one["layer"], one["component"], one["format"]) == (3, "attention_scores", "list")
    assert np.shape(one["data"]) == tuple(one["shape"])
    assert converted["embedding_output"][0]["layer"] is None
    with RESTActivationCaptureClient(gateway.target) as classes:
        result = classes.generate_with_activations(MESSAGES, hooks, max_tokens=2)
    assert (
        bridge.convert_activations_for_neuroscope(result.activations)["layer_0_mlp"][0]["data"]
        == (converted["layer_0_mlp"][0]["data"])
    )


def test_the_generated_class_calls_the_clients_gateway(client: LMStudioNeuroScopeClient) -> None:
    assert f"baseUrl: '{client.base_url}'" in generate_neuroscope_smalltalk_interface(client)
