"""Errors that HTTP adds, and their JSON.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_errors.py"""

import json
import logging
from typing import Any

import httpx
import pytest

from neuroscope import errors as tree
from neuroscope_gateway.app import create_app
from neuroscope_gateway.generation.request_hooks import RequestHooks, rest_param
from neuroscope_gateway.http import errors
from neuroscope_gateway.schemas.chat import ChatCompletionRequest
from neuroscope_gateway.schemas.hooks import ActivationHook
from neuroscope_gateway.settings import GatewaySettings
from tests.support.fake_inference import FakeInference

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}
JSON = {"Content-Type": "application/json"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/chat/completions/", "/redoc"])
def test_an_unknown_route_is_404(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_route")
    assert path in error_of(response)["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("PUT", "/health", "GET"),
        ("OPTIONS", "/v1/activations/hooks", "DELETE, GET, POST"),
    ],
)
def test_a_wrong_method_is_405(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = http.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed


NO_JSON = {
    "broken": b'{"messages": [',
    "empty object cut": b"{",
    "words": b"hello",
    "latin": '{"messages": "é"}'.encode("latin-1"),
    "deep": b'{"messages":' + b"[" * 200_000,
    "long number": b'{"max_tokens": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_is_400(http: httpx.Client, name: str) -> None:
    response = http.post(CHAT, content=NO_JSON[name], headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'"x"', b"3"])
def test_json_that_is_no_object_is_400(http: httpx.Client, content: bytes) -> None:
    response = http.post(CHAT, content=content, headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_400(http: httpx.Client, value: str) -> None:
    content = json.dumps(HELLO)[:-1] + f', "temperature": {value}}}'
    response = http.post(CHAT, content=content, headers=JSON)
    assert (response.status_code, error_of(response)["param"]) == (400, "temperature")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_400_and_says_which(http: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    response = http.post(CHAT, content=json.dumps(HELLO), headers=headers)
    assert response.status_code == 400
    assert "application/json" in error_of(response)["message"]


def test_several_mistakes_name_the_first(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, json=HELLO | {"temperature": 9, "top_p": 9}))
    assert error["param"] == "temperature"
    assert error["message"].endswith("(1 more)")


ERRORS = [cls for cls in dict.fromkeys(tree.error_classes().values()) if cls is not tree.UnauthenticatedError]


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_every_error_of_the_tree_has_its_status(
    http: httpx.Client, fake: FakeInference, cls: type[tree.MLXIntegrationError], stream: bool
) -> None:
    fake.script.refusal = cls("what is wrong", field="sampling.top_p")
    response = http.post(CHAT, json=HELLO | {"stream": stream})
    error = error_of(response)
    assert response.status_code == cls.http_status
    assert error["code"] == cls.code()
    assert (error["message"], error["type"], error["param"]) == ("what is wrong", cls.openai_type, "top_p")


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_inference_refuses_is_the_gateways_fault(
    http: httpx.Client, fake: FakeInference, stream: bool
) -> None:
    fake.script.refusal = tree.UnauthenticatedError("the token is wrong")
    response = http.post(CHAT, json=HELLO | {"stream": stream})
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (502, "server_error", "inference_unauthenticated")
    assert "inference_token" in error["message"]


async def test_a_fault_of_ours_is_500_and_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def models(self) -> None:
            raise RuntimeError("a secret path")

    app = create_app(GatewaySettings())
    app.state.client = Broken()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        with caplog.at_level(logging.ERROR):
            response = await client.get("/v1/models", headers={"Origin": "http://localhost:3000"})
    assert (response.status_code, error_of(response)["code"]) == (500, "internal")
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "secret" not in response.text
    assert "a secret path" in caplog.text


def test_an_error_about_unprintable_text_can_be_sent() -> None:
    body = errors.error_json("about \ud800", param="\ud800", code="x")
    assert body["error"]["message"] == "about ?"
    json.dumps(body).encode()


HOOKS = RequestHooks(
    ["kept", ActivationHook(component="mlp", capture_input=True), ActivationHook(component="logits"), "other"]
)
PARAMS = {
    "hooks[0].site.component": "activation_hooks[1].component",
    "hooks[1].site.layer_name": "activation_hooks[1].layer_name",
    "hooks[2].site.layer": "activation_hooks[2].layer_name",
    "hooks[2].site.side": "activation_hooks[2].capture_input",
    "hooks[2].hook_id": "activation_hooks[2].hook_id",
    "hooks[2].site": "activation_hooks[2]",
    "hooks[2]": "activation_hooks[2]",
    "hooks[9].site": "hooks",
    "hook_ids[1]": "activation_hooks[3]",
    "prompts[0]": "messages",
    "prompts": "messages",
    "prompts[0].chat": "messages",
    "prompts[0].chat.messages": "messages",
    "prompts[0].chat.messages[1].role": "messages[1].role",
    "prompts[0].chat.messages[1]": "messages[1]",
    "prompt[2].content": "messages",
    "sampling.top_p": "top_p",
    "sampling.stop[1]": "stop[1]",
    "sampling.max_tokens": "max_completion_tokens",
    "model_id": "model",
    "trace_id": "trace_id",
}


@pytest.mark.parametrize("field", PARAMS)
def test_fields_of_the_contract_as_rest_parameters(field: str) -> None:
    aliases = {"model_id": "model", "max_tokens": "max_completion_tokens"}
    chat = ChatCompletionRequest.model_construct()
    assert rest_param(field, HOOKS, aliases, chat.prompt_param) == PARAMS[field]
