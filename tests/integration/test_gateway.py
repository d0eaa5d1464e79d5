"""The gateway before the real inference service.  Run: .venv/bin/python -m pytest tests/integration/test_gateway.py"""

import json
import shutil
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from neuroscope.client import Client
from tests.support import curl
from tests.support.random_models import make_model
from tests.support.services import Service, inference_service, running

MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
CHAT = "/v1/chat/completions"
ACTIVATIONS = f"{CHAT}/with_activations"
SIZE = 12
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e47"


@pytest.fixture
def http(gateway: Service) -> Generator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=120) as client:
        yield client


@pytest.fixture
def grpc(inference: Service) -> Generator[Client]:
    with Client(inference.target) as client:
        yield client


def ask(http: httpx.Client, path: str = CHAT, **parameters: Any) -> Any:
    response = http.post(path, json={"messages": MESSAGES, "max_tokens": SIZE} | parameters)
    assert response.status_code == 200, response.text
    return response.json()


def joined(pieces: list[dict[str, Any]], axis: int = 1) -> np.ndarray:
    """The pieces of a hook as one array, as a REST client would join them."""
    return np.concatenate([np.array(piece["data"], np.float32).reshape(piece["shape"]) for piece in pieces], axis)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_rest_and_grpc_give_the_same_bits(http: httpx.Client, grpc: Client, model: str) -> None:
    names = ["residual", "attention", "mlp", "layernorm", "query", "key", "value"]
    hooks = [
        {"layer_name": f"transformer.h.{layer}", "component": name, "hook_id": f"{name}{layer}"}
        for layer in (0, 3)
        for name in names
    ]
    hooks.append({"layer_name": "transformer.wte", "component": "embedding", "hook_id": "embedding"})
    answer = ask(http, ACTIVATIONS, model=model, activation_hooks=hooks)
    generation = grpc.generate(MESSAGES, hooks=hooks, model_id=model, max_tokens=SIZE).wait()
    assert answer["choices"][0]["message"]["content"] == generation.text
    assert answer["usage"]["prompt_tokens"] == generation.usage.prompt_tokens
    assert set(answer["activations"]) == {hook["hook_id"] for hook in hooks}
    for hook in hooks:
        pieces = answer["activations"][hook["hook_id"]]
        assert {(piece["component"], piece["layer_name"]) for piece in pieces} == {
            (hook["component"], hook["layer_name"])
        }
        np.testing.assert_array_equal(joined(pieces), generation.cache[hook["hook_id"]])


def test_attention_grows_by_a_key_a_step(http: httpx.Client) -> None:
    hook = {"layer_name": "model.layers.1", "component": "attention_pattern", "hook_id": "p"}
    answer = ask(http, ACTIVATIONS, activation_hooks=[hook], max_tokens=3)
    count = answer["usage"]["prompt_tokens"]
    pieces = answer["activations"]["p"]
    assert [piece["shape"] for piece in pieces] == [
        [1, 8, count, count],
        [1, 8, 1, count + 1],
        [1, 8, 1, count + 2],
    ]
    for piece in pieces:
        np.testing.assert_allclose(np.sum(piece["data"], axis=-1), 1, rtol=1e-5)


def test_masked_scores_can_be_carried(http: httpx.Client) -> None:
    hook = {"layer_name": "model.layers.1", "component": "attention_scores", "hook_id": "s"}
    (piece,) = ask(http, ACTIVATIONS, activation_hooks=[hook], max_tokens=1)["activations"]["s"]
    assert np.float32(piece["data"][0][0][0][-1]) == np.finfo(np.float32).min


def test_all_forms_of_an_answer_agree(http: httpx.Client) -> None:
    hook = {"layer_name": "blocks.2", "component": "mlp", "hook_id": "m", "capture_input": True}
    text = ask(http)["choices"][0]["message"]["content"]
    whole = ask(http, ACTIVATIONS, activation_hooks=[hook])
    assert whole["choices"][0]["message"]["content"] == text
    body = {"messages": MESSAGES, "max_tokens": SIZE, "stream": True}
    events = [line.removeprefix("data: ") for line in http.post(CHAT, json=body).text.splitlines() if line]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events) == text
    lines = [json.loads(line) for line in http.post(ACTIVATIONS, json=body | {"activation_hooks": [hook]}).iter_lines()]
    assert "".join(line["choices"][0]["delta"].get("content", "") for line in lines) == text
    assert [piece for line in lines for piece in line["activations"].get("m", [])] == whole["activations"]["m"]
    assert lines[-1]["usage"] == whole["usage"]


def test_a_seed_repeats_a_draw(http: httpx.Client) -> None:
    def draw(seed: int) -> str:
        return ask(http, temperature=1.5, seed=seed, max_tokens=24)["choices"][0]["message"]["content"]

    assert draw(7) == draw(7)
    assert draw(-7) == draw(-7)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_stop_text_ends_the_answer(http: httpx.Client) -> None:
    text = ask(http)["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    answer = ask(http, stop=stop)["choices"][0]
    assert answer["message"]["content"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_choices_are_those_of_the_seeds_that_follow(http: httpx.Client) -> None:
    parameters: dict[str, Any] = {"temperature": 1.2, "frequency_penalty": 1.0, "logit_bias": {"33": -100}}
    several = ask(http, n=3, seed=7, **parameters)
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert texts == [ask(http, seed=seed, **parameters)["choices"][0]["message"]["content"] for seed in (7, 8, 9)]
    assert len(set(texts)) == 3
    body = {"messages": MESSAGES, "max_tokens": SIZE, "stream": True, "n": 3, "seed": 7} | parameters
    events = [line.removeprefix("data: ") for line in http.post(CHAT, json=body).text.splitlines() if line]
    assert events.pop() == "[DONE]"
    streamed = [""] * 3
    for event in events:
        choice = json.loads(event)["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


def test_text_completions_are_those_of_grpc(http: httpx.Client, grpc: Client) -> None:
    prompts = ["When Alice and Bob", "The capital of"]
    ids = [grpc.tokenize(prompt).ids for prompt in prompts]
    expected = grpc.generate(prompts, max_tokens=SIZE, top_logprobs=2).wait().texts
    for prompt in (prompts, ids):
        response = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": SIZE, "logprobs": 2})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert [choice["text"] for choice in answer["choices"]] == expected
        assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
        logprobs = answer["choices"][0]["logprobs"]
        assert len(logprobs["tokens"]) == SIZE
        assert all(
            max(tops.values()) == own
            for tops, own in zip(logprobs["top_logprobs"], logprobs["token_logprobs"], strict=True)
        )
    echoed = http.post("/v1/completions", json={"prompt": ids[0], "max_tokens": 2, "echo": True}).json()
    assert echoed["choices"][0]["text"].startswith(grpc.detokenize(ids[0]))


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_an_echo_tells_how_likely_the_prompt_is(http: httpx.Client, grpc: Client, model: str) -> None:
    prompts = ["When Alice and Bob went to the store", "é Once"]
    asked = {"model": model, "prompt": prompts, "max_tokens": 2, "echo": True, "logprobs": 2, "n": 2, "seed": 1}
    response = http.post("/v1/completions", json=asked)
    assert response.status_code == 200, response.text
    answer = response.json()
    plain = http.post("/v1/completions", json={**asked, "echo": False, "logprobs": 2}).json()
    for index, choice in enumerate(answer["choices"]):
        prompt, logprobs = prompts[index // 2], choice["logprobs"]
        read = grpc.tokenize(prompt, model_id=model)
        logits = grpc.capture(prompt, ["logits"], model_id=model)["logits"][0].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        count = len(read.ids)
        assert choice["text"] == prompt + plain["choices"][index]["text"]
        assert logprobs["tokens"][:count] == read.tokens
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        own = expected[np.arange(count - 1), read.ids[1:]]
        np.testing.assert_allclose(logprobs["token_logprobs"][1:count], own, atol=1e-4)
        for tops, row in zip(logprobs["top_logprobs"][1:count], expected[:-1], strict=True):
            assert max(tops.values()) == pytest.approx(row.max(), abs=1e-4)
            assert len(tops) in (1, 2, 3)
        assert logprobs["tokens"][count:] == plain["choices"][index]["logprobs"]["tokens"]
        for token, offset in zip(read.tokens, logprobs["text_offset"][:count], strict=True):
            if "\N{REPLACEMENT CHARACTER}" not in token and token in prompt:
                assert choice["text"][offset:].startswith(token)
    alone = http.post("/v1/completions", json=asked | {"max_tokens": 0, "n": 1}).json()
    assert [choice["text"] for choice in alone["choices"]] == prompts
    assert {choice["finish_reason"] for choice in alone["choices"]} == {"length"}
    assert alone["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(
        answer["choices"][0]["logprobs"]["token_logprobs"][: len(alone["choices"][0]["logprobs"]["tokens"])], abs=1e-5
    )
    assert alone["usage"]["completion_tokens"] == 0
    events = http.post("/v1/completions", json=asked | {"stream": True}).text.split("\n\n")[:-2]
    texts = [""] * 4
    for event in events:
        choice = json.loads(event[6:])["choices"][0]
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in answer["choices"]]


@pytest.mark.parametrize(
    ("body", "param"),
    [({"prompt": ["a", "b"], "model": "nobody"}, "model"), ({"prompt": [[1], [99_999]]}, "prompt[1]")],
)
def test_mistakes_of_an_echo(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    for extra in ({}, {"logprobs": 1}):
        response = http.post("/v1/completions", json=body | {"echo": True} | extra)
        assert response.json()["error"]["param"] == param, response.text
        assert response.status_code in (400, 404)


def test_a_response_is_the_chat(http: httpx.Client) -> None:
    chat = ask(http)["choices"][0]["message"]["content"]
    said = {"instructions": MESSAGES[0]["content"], "input": MESSAGES[1]["content"], "max_output_tokens": SIZE}
    answer = http.post("/v1/responses", json=said).json()
    assert answer["output"][0]["content"][0]["text"] == chat


OLD_FORM: dict[str, tuple[dict[str, Any], str]] = {
    "ids beyond the vocabulary": ({"prompt": [[1, 2], [5, 99_999]]}, "prompt[1]"),
    "bias beyond the vocabulary": ({"prompt": "a", "logit_bias": {"99999": 1}}, "logit_bias"),
    "context": ({"prompt": ["a", "word " * 5000]}, "prompt[1]"),
    "rows": ({"prompt": ["a"] * 100, "n": 100}, "n"),
}


@pytest.mark.parametrize("name", OLD_FORM)
def test_mistakes_of_text_completions(http: httpx.Client, name: str) -> None:
    body, param = OLD_FORM[name]
    response = http.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_registered_hooks(http: httpx.Client) -> None:
    path = "/v1/activations/hooks"
    hook = {"layer_name": "transformer.h.1", "component": "residual", "hook_id": "kept", "capture_input": True}
    assert http.post(path, json={"hooks": [hook], "model": "llama"}).json() == {"registered_hooks": ["kept"]}
    try:
        assert http.get(path).json()["hooks"] == [hook | {"capture_output": True}]
        by_id = ask(http, ACTIVATIONS, activation_hooks=["kept"])["activations"]
        assert by_id == ask(http, ACTIVATIONS, activation_hooks=[hook | {"hook_id": "kept"}])["activations"]
        assert [piece["is_input"] for piece in by_id["kept"][:2]] == [True, False]
    finally:
        assert http.delete(path, params={"hook_ids": "kept"}).json()["cleared_hooks"] == ["kept"]


def test_the_openai_client(gateway: Service) -> None:
    with openai.OpenAI(base_url=f"{gateway.target}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} >= {"llama", "gpt2"}
        answer = client.chat.completions.create(
            model="gpt2", messages=MESSAGES, max_completion_tokens=SIZE, logprobs=True, top_logprobs=3
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content or ())
        assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in logprobs.content or ())  # greedy
        stream = client.chat.completions.create(
            model="gpt2", messages=MESSAGES, max_completion_tokens=SIZE, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content
        written = client.completions.create(model="gpt2", prompt=["Once", "Twice"], max_tokens=4, logprobs=2)
        for choice in written.choices:
            assert choice.logprobs is not None
            assert "".join(choice.logprobs.tokens or ()).lstrip(" ") == choice.text.lstrip(" ")
            assert all(1 <= len(tops) <= 3 for tops in choice.logprobs.top_logprobs or ())  # alike texts are one
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="gpt2", prompt="x" * 10_000)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


MISTAKES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "model": ({"model": "nobody"}, 404, "model", "model_not_found"),
    "context": (
        {"messages": [{"role": "user", "content": "word " * 5000}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    "component": (
        {"activation_hooks": [{"layer_name": "h.1", "component": "atention"}]},
        400,
        "activation_hooks[0].component",
        "unknown_site",
    ),
    "layer": (
        {"activation_hooks": [{"layer_name": "transformer.h.77", "component": "mlp"}]},
        400,
        "activation_hooks[0].layer_name",
        "unknown_site",
    ),
    "no experts": (
        {"activation_hooks": [{"layer_name": "h.1", "component": "router_logits"}]},
        400,
        "activation_hooks[0].component",
        "unavailable_site",
    ),
    "bits of keys": ({"kv_bits": 7}, 400, "kv_bits", "invalid_request"),
    "group of keys": ({"kv_bits": 8, "kv_group_size": 48}, 400, "kv_group_size", "invalid_request"),
    "keys that stay": ({"kv_bits": 8}, 400, "kv_bits", "invalid_request"),  # heads of 16 are in no group
    "id": ({"activation_hooks": ["nobody"]}, 404, "activation_hooks[0]", "unknown_id"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes(http: httpx.Client, name: str, stream: bool) -> None:
    parameters, status, param, code = MISTAKES[name]
    response = http.post(ACTIVATIONS, json={"messages": MESSAGES, "stream": stream} | parameters)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error


def test_a_load_of_nothing_is_404(http: httpx.Client, tmp_path: Path) -> None:
    response = http.post("/v1/models/load", json={"model_path": str(tmp_path / "none")})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404, "model_path", "model_not_found")


def spans(http: httpx.Client, trace_id: str, name: str) -> dict[str, Span]:
    """The spans of a trace by name, once the one of that name has ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        response = http.get(f"/v1/traces/{trace_id}")
        if response.status_code == 200:
            data = TracesData.FromString(response.content)
            found = {
                span.name: span
                for resource in data.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            }
            if name in found:
                return found
        time.sleep(0.02)
    raise AssertionError(f"no span {name} has ended")


def sampled(number: int) -> tuple[str, dict[str, str]]:
    trace_id = f"{TRACE_ID}{number:02x}"
    return trace_id, {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}


def test_one_trace_from_the_request_to_the_engine(http: httpx.Client) -> None:
    trace_id, header = sampled(1)
    http.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2}, headers=header)
    found = spans(http, trace_id, f"POST {CHAT}")
    assert {"neuroscope.generate", "Generate", "prefill", "decode"} <= set(found)
    assert found["neuroscope.generate"].parent_span_id == found[f"POST {CHAT}"].span_id
    assert found["Generate"].parent_span_id == found["neuroscope.generate"].span_id


def leave_after(seconds: float, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Reads an answer for a while and hangs up."""
    begun = time.monotonic()
    with httpx.stream("POST", url, json=body, headers=headers, timeout=seconds) as response:
        for _ in response.iter_raw():
            if time.monotonic() - begun > seconds:
                return


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(http: httpx.Client, gateway: Service, stream: bool) -> None:
    trace_id, header = sampled(2 + stream)
    body = {"messages": MESSAGES, "max_tokens": 3000, "stream": stream}
    with suppress(httpx.ReadTimeout):  # as the whole answer would take longer
        leave_after(0.5, gateway.target + CHAT, body, header)
    left = time.time_ns()
    generate = spans(http, trace_id, "Generate")["Generate"]
    assert generate.status.code == Status.STATUS_CODE_ERROR
    assert generate.end_time_unix_nano - left < 1e9


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_demo_as_printed(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path / "six-layers", num_hidden_layers=6)  # the demo looks at layer 5
    load = curl.LOAD.replace("./models/nightmedia/gpt-oss-20b-q4-hi-mlx", str(folder))
    with (
        inference_service() as inference,
        running("neuroscope_gateway", "--port", "0", "--inference", inference.target) as gateway,
    ):

        def run(command: str) -> Any:
            return curl.run(command, url=gateway.target, home=tmp_path)

        assert run(curl.HEALTH)["models"] == []
        assert run(load)["model_id"] == "six-layers"
        answer = run(curl.WITH_ACTIVATIONS)
        assert answer["choices"][0]["message"]["content"]
        first = answer["activations"]["test_hook"][0]
        assert first["shape"][:2] == [1, answer["usage"]["prompt_tokens"]]
        assert (first["layer_name"], first["component"]) == ("transformer.h.5", "attention")
        assert run(curl.REGISTER) == {"registered_hooks": ["unique_hook_id"]}
        assert run(curl.CLEAR)["cleared_hooks"] == ["unique_hook_id"]


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_body_of_100_mb_is_refused_without_being_held(gateway: Service, http: httpx.Client, chunked: bool) -> None:
    ask(http)  # what a first request takes is taken
    before = gateway.resident_bytes()
    size, block = 100_000_000, b" " * 1_000_000
    parts = (block for _ in range(size // len(block)))
    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(size)})
    with suppress(httpx.WriteError, httpx.RemoteProtocolError):  # it may hang up before all is sent
        response = http.post(CHAT, content=parts, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert gateway.resident_bytes() - before < 48_000_000
    assert http.get("/health").status_code == 200
