"""Models and health.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_models.py"""

import socket

import httpx
import pytest

from neuroscope.v1.telemetry_pb2 import GetWorkloadResponse
from neuroscope.vocabulary.tensors import dtype_name
from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import running_gateway


def test_health(http: httpx.Client) -> None:
    response = http.get("/health")
    assert response.status_code == 200
    answer = response.json()
    assert (answer["status"], answer["service"], answer["models"]) == ("healthy", "neuroscope-gateway", ["tiny"])
    assert set(answer["workload"]) == set(GetWorkloadResponse.DESCRIPTOR.fields_by_name)
    assert (answer["workload"]["streams"], answer["workload"]["weights_bytes"]) == (2, 10**9)


def test_health_without_a_service_is_503_soon() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
    with running_gateway(inference=target) as gateway:
        response = httpx.get(f"{gateway.url}/health", timeout=10)
        assert response.status_code == 503
        answer = response.json()
        assert (answer["status"], answer["inference"]) == ("unavailable", target)
        assert answer["error"]["code"] == "service_unavailable"
        assert "neuroscope up" in answer["error"]["message"]
        chat = httpx.post(f"{gateway.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "service_unavailable")


def test_models_are_openais_list_and_say_what_they_are(http: httpx.Client) -> None:
    answer = http.get("/v1/models").json()
    assert answer["object"] == "list"
    (model,) = answer["data"]
    assert {name: model[name] for name in ("id", "object", "created", "owned_by")} == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "neuroscope",
    }
    assert (model["architecture"], model["num_layers"], model["dtype"]) == ("llama", 8, "bfloat16")
    assert (model["bos_token_id"], model["eos_token_ids"]) == (1, [2])


def test_a_model_lists_its_hook_points(http: httpx.Client) -> None:
    model = http.get("/v1/models/tiny").json()
    assert (model["id"], model["object"]) == ("tiny", "model")
    available, missing = model["hook_points"]
    assert available == {
        "component": "resid_post",
        "layer": 3,
        "layer_name": "model.layers.3",
        "is_input": False,
        "available": True,
        "reason": "",
        "axes": ["batch", "position", "d_model"],
        "dtype": "bfloat16",
        "module_path": "model.layers.3",
    }
    assert (missing["available"], missing["reason"]) == (False, "this model has no experts")
    assert model["self_test"]["logits_identical"]
    assert model["self_test"]["identities"][0]["name"] == "a == b"


def test_a_hub_id_has_a_slash(http: httpx.Client) -> None:
    http.post("/v1/models/load", json={"model_path": "org/name", "model_id": "org/name"})
    assert http.get("/v1/models/org/name").json()["id"] == "org/name"
    assert http.get("/v1/models/org%2Fname").json()["id"] == "org/name"


def test_an_unknown_model_is_404(http: httpx.Client) -> None:
    response = http.get("/v1/models/nobody")
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")


def test_a_model_is_loaded(http: httpx.Client, fake: FakeInference) -> None:
    response = http.post("/v1/models/load", json={"model_path": "./models/some/thing/"})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["status"], answer["model_id"], answer["id"]) == ("loaded", "thing", "thing")
    assert answer["supports_activations"] is True
    assert answer["num_layers"] == 8
    assert fake.requests[-1].model_path == "./models/some/thing/"
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny", "thing"]


def test_a_model_is_loaded_under_a_name(http: httpx.Client, fake: FakeInference) -> None:
    body = {"model_path": "p", "model_id": "mine", "revision": "main", "adapter_path": "lora"} | {
        "dtype": "float16",
        "dequantize": False,
    }
    assert http.post("/v1/models/load", json=body).json()["model_id"] == "mine"
    request = fake.requests[-1]
    assert (request.revision, request.adapter_path) == ("main", "lora")
    assert (dtype_name(request.dtype), request.HasField("dequantize"), request.dequantize) == ("float16", True, False)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model_path": "./missing"}, 404, "model_path"),
        ({"model_path": ""}, 400, "model_path"),
        ({"model_path": 3}, 400, "model_path"),
        ({}, 400, "model_path"),
        ({"model_path": "x", "modelid": "y"}, 400, "modelid"),
    ],
)
def test_a_load_that_cannot_be(http: httpx.Client, body: dict[str, object], status: int, param: str) -> None:
    response = http.post("/v1/models/load", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
