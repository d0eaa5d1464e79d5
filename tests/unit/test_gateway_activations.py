"""Chat completions with activations.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_activations.py"""

import json
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from tests.support.fake_inference import D_MODEL, FakeInference, Token, tensor

PATH = "/v1/chat/completions/with_activations"
HELLO = [{"role": "user", "content": "Hello!"}]
HOOK = {"layer_name": "transformer.h.5", "component": "attention", "hook_id": "test_hook"}
KEYS = {"hook_id", "layer_name", "component", "shape", "dtype", "is_input", "data"}


def ask(http: httpx.Client, hooks: list[Any], **parameters: Any) -> httpx.Response:
    return http.post(PATH, json={"messages": HELLO, "activation_hooks": hooks} | parameters)


def activations(response: httpx.Response) -> dict[str, list[dict[str, Any]]]:
    assert response.status_code == 200, response.text
    return response.json()["activations"]


def lines(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def test_an_activation_has_the_seven_keys_of_the_format(http: httpx.Client) -> None:
    response = ask(http, [HOOK])
    answer = response.json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello!"}
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    pieces = answer["activations"]["test_hook"]
    assert all(set(piece) == KEYS for piece in pieces)
    assert [piece.pop("shape") for piece in pieces] == [[1, 4, D_MODEL], [1, 1, D_MODEL], [1, 1, D_MODEL]]
    for step, piece in enumerate(pieces):
        expected = tensor("attn_out", 5, step, 1 if step else 4, 4 + step, np.float32)
        np.testing.assert_array_equal(np.array(piece.pop("data"), np.float32), expected)
        assert piece == {
            "hook_id": "test_hook",
            "layer_name": "transformer.h.5",
            "component": "attention",
            "dtype": "float32",
            "is_input": False,
        }


def test_all_components_come_back_under_the_name_they_were_asked_for(http: httpx.Client) -> None:
    names = ["residual", "attention", "mlp", "layernorm", "attention_scores", "attention_pattern", "key", "query"]
    hooks = [{"layer_name": "model.layers.2", "component": name, "hook_id": name} for name in [*names, "value"]]
    hooks.append({"layer_name": "transformer.wte", "component": "embedding", "hook_id": "embedding"})
    hooks.append({"component": "blocks.3.attn.hook_z", "hook_id": "z"})
    found = activations(ask(http, hooks))
    assert {hook_id: pieces[0]["component"] for hook_id, pieces in found.items()} == {
        hook["hook_id"]: hook["component"] for hook in hooks
    }
    assert found["embedding"][0]["layer_name"] == "transformer.wte"
    assert found["z"][0]["layer_name"] == "model.layers.3"
    assert found["attention_pattern"][1]["shape"] == [1, 2, 1, 5]  # (batch, head, query, key)


def test_both_sides_of_a_hook(http: httpx.Client) -> None:
    hooks = [
        HOOK | {"component": name, "hook_id": name, "capture_input": True} for name in ("residual", "mlp", "layernorm")
    ]
    for pieces in activations(ask(http, hooks, max_tokens=1)).values():
        assert [piece["is_input"] for piece in pieces] == [True, False]
        assert len({piece["component"] for piece in pieces}) == 1


def test_only_the_input(http: httpx.Client) -> None:
    hook = HOOK | {"capture_input": True, "capture_output": False}
    assert [piece["is_input"] for piece in activations(ask(http, [hook], max_tokens=1))["test_hook"]] == [True]


def test_a_hook_without_an_id_gets_one(http: httpx.Client) -> None:
    hooks = [{"layer_name": "h.1", "component": "residual", "hook_id": None}, {"component": "logits"}]
    found = activations(ask(http, hooks))
    assert {hook_id: pieces[0]["component"] for hook_id, pieces in found.items()} == {
        "resid_post.1": "residual",
        "logits": "logits",
    }


def test_a_hook_without_a_layer_is_one_of_every_layer(http: httpx.Client) -> None:
    pieces = activations(ask(http, [{"component": "residual", "hook_id": "r"}], max_tokens=1))["r"]
    assert [piece["layer_name"] for piece in pieces] == [f"model.layers.{layer}" for layer in range(8)]


def test_negative_layers(http: httpx.Client) -> None:
    pieces = activations(ask(http, [HOOK | {"layer_name": "h.-1"}], max_tokens=1))["test_hook"]
    assert (pieces[0]["component"], pieces[0]["data"][0][0][0]) == ("attention", 7.0)


def test_registered_ids_stand_beside_hook_objects(http: httpx.Client, fake: FakeInference) -> None:
    kept = {"layer_name": "transformer.h.2", "component": "residual", "hook_id": "kept", "capture_input": True}
    assert http.post("/v1/activations/hooks", json=kept).status_code == 200
    found = activations(ask(http, ["kept", HOOK], max_tokens=1))
    assert list(found) == ["test_hook", "kept"]
    assert [(piece["component"], piece["is_input"]) for piece in found["kept"]] == [
        ("residual", True),
        ("residual", False),
    ]
    request: pb.GenerateRequest = fake.requests[-1]
    assert list(request.hook_ids) == ["kept"]
    assert [hook.hook_id for hook in request.hooks] == ["test_hook"]


def test_a_hook_that_was_registered_over_grpc(http: httpx.Client, fake: FakeInference) -> None:
    site = site_pb2.Site(component="resid_pre", layer=3, side=site_pb2.SIDE_OUTPUT)
    fake.hooks.append(pb.HookSpec(hook_id="g", site=site))
    piece = activations(ask(http, ["g"], max_tokens=1))["g"][0]
    assert (piece["component"], piece["layer_name"], piece["is_input"]) == ("resid_pre", "model.layers.3", False)


def test_no_hooks_no_activations(http: httpx.Client) -> None:
    for hooks in ([], None):
        response = http.post(PATH, json={"messages": HELLO, "activation_hooks": hooks})
        assert activations(response) == {}
    assert activations(http.post(PATH, json={"messages": HELLO})) == {}


def test_a_prefill_in_chunks_gives_several_pieces(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.chunks = 2
    pieces = activations(ask(http, [HOOK], max_tokens=2))["test_hook"]
    assert [piece["shape"][1] for piece in pieces] == [2, 2, 1]


def test_a_stream_is_a_line_for_every_token_and_one_at_the_end(http: httpx.Client) -> None:
    *tokens, end = lines(ask(http, [HOOK], stream=True))
    assert [line["choices"][0]["delta"] for line in tokens] == [
        {"role": "assistant", "content": "Hel"},
        {"content": "lo"},
        {"content": "!"},
    ]
    assert [[piece["shape"] for piece in line["activations"]["test_hook"]] for line in tokens] == [
        [[1, 4, D_MODEL]],
        [[1, 1, D_MODEL]],
        [[1, 1, D_MODEL]],
    ]
    assert all(set(line["activations"]["test_hook"][0]) == KEYS for line in tokens)
    assert end["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert end["activations"] == {}
    assert end["usage"]["total_tokens"] == 7


def test_the_stream_and_the_whole_answer_agree(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.tokens.append(Token("", 2))
    hooks = [HOOK, HOOK | {"component": "attention_pattern", "hook_id": "p"}]
    whole = activations(ask(http, hooks))
    joined: dict[str, list[Any]] = {}
    for line in lines(ask(http, hooks, stream=True)):
        for hook_id, pieces in line["activations"].items():
            joined.setdefault(hook_id, []).extend(pieces)
    assert joined == whole


def test_logprobs_go_along(http: httpx.Client) -> None:
    assert len(ask(http, [HOOK], logprobs=True).json()["choices"][0]["logprobs"]["content"]) == 3
    first, *_ = lines(ask(http, [HOOK], logprobs=True, stream=True))
    assert first["choices"][0]["logprobs"]["content"][0]["token"] == "Hel"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float32", np.float32),
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float64", np.float64),
        ("int8", np.int8),
        ("int64", np.int64),
        ("uint8", np.uint8),
        ("uint32", np.uint32),
        ("bool", np.bool_),
    ],
)
def test_every_type_keeps_its_name_and_its_values(
    http: httpx.Client, fake: FakeInference, name: str, dtype: Any
) -> None:
    fake.script.dtype = tensor_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}")
    piece = activations(ask(http, [HOOK], max_tokens=1))["test_hook"][0]
    assert piece["dtype"] == name
    np.testing.assert_array_equal(np.array(piece["data"], dtype), tensor("attn_out", 5, 0, 4, 4, dtype))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_no_bit_is_lost(http: httpx.Client, fake: FakeInference, dtype: Any) -> None:
    values = np.random.default_rng(0).standard_normal((1, 4, 500)).astype(dtype)
    values[0, 0, :3] = [np.float32(1e-7), 0.1, -3.3e4]
    names = {np.float32: "FLOAT32", np.float16: "FLOAT16", ml_dtypes.bfloat16: "BFLOAT16"}
    fake.script.dtype = tensor_pb2.DataType.Value(f"DATA_TYPE_{names[dtype]}")
    fake.script.change = lambda array: values
    piece = activations(ask(http, [HOOK], max_tokens=1))["test_hook"][0]
    received = np.array(piece["data"], np.float32).astype(dtype)
    assert received.tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", [(1, 4, 70_000), (1, 300_000, 1), (1, 2, 3, 50_000), (1, 90_000), (1, 0, 5)])
def test_large_and_odd_shapes(http: httpx.Client, fake: FakeInference, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    fake.script.change = lambda array: values
    piece = activations(ask(http, [HOOK], max_tokens=1))["test_hook"][0]
    assert piece["shape"] == list(shape)
    np.testing.assert_array_equal(np.array(piece["data"], np.float32).reshape(shape), values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_BFLOAT16])
def test_what_json_cannot_carry_is_refused_by_name(
    http: httpx.Client, fake: FakeInference, value: float, dtype: Any
) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[-1] = value
        return array

    fake.script.change, fake.script.dtype = spoil, dtype
    response = ask(http, [HOOK])
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("uncarriable_tensor", "activation_hooks[0]")
    assert "test_hook" in error["message"]
    failed = lines(ask(http, [HOOK], stream=True))
    assert failed == [{"error": error}]


def test_the_least_float_is_carried(http: httpx.Client, fake: FakeInference) -> None:
    least = np.finfo(np.float32).min
    fake.script.change = lambda array: np.full_like(array, least)
    piece = activations(ask(http, [HOOK], max_tokens=1))["test_hook"][0]
    assert np.float32(piece["data"][0][0][0]) == least


MISTAKES: dict[str, tuple[Any, str]] = {
    "component": ([HOOK, HOOK | {"component": "atention"}], "activation_hooks[1].component"),
    "after one of two sides": (
        [HOOK | {"capture_input": True}, HOOK | {"component": "x"}],
        "activation_hooks[1].component",
    ),
    "no component": ([{"layer_name": "h.1"}], "activation_hooks[0].component"),
    "layer": ([HOOK | {"layer_name": "transformer.h.99"}], "activation_hooks[0].layer_name"),
    "layer name": ([HOOK | {"layer_name": "transformer"}], "activation_hooks[0].layer_name"),
    "no such input": (
        [HOOK | {"component": "value", "capture_input": True}],
        "activation_hooks[0].capture_input",
    ),
    "neither side": ([HOOK | {"capture_output": False}], "activation_hooks[0].capture_output"),
    "unknown field": ([HOOK | {"layer": 5}], "activation_hooks[0].layer"),
    "text for bool": ([HOOK | {"capture_input": "yes"}], "activation_hooks[0].capture_input"),
    "number": ([3], "activation_hooks[0]"),
    "no list": (HOOK, "activation_hooks"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_in_a_hook_is_told_by_its_rest_path(http: httpx.Client, name: str, stream: bool) -> None:
    hooks, param = MISTAKES[name]
    response = ask(http, hooks, stream=stream)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_an_unregistered_id_is_404(http: httpx.Client) -> None:
    response = ask(http, [HOOK, "nobody"])
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404, "activation_hooks[1]", "unknown_id")


def test_a_mistake_names_the_nearest_names(http: httpx.Client) -> None:
    assert "attention" in ask(http, [HOOK | {"component": "atention"}]).json()["error"]["message"]
