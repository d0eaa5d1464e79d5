"""Streams that break, wait or lose their reader.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_streams.py"""

import json
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from neuroscope.errors import ActivationCaptureError, NeuroScopeIntegrationError, ResourceExhaustedError
from neuroscope_gateway.http import event_stream, tensor_json
from tests.support.fake_inference import FakeInference, Script, Token
from tests.support.running_gateway import RunningGateway

CHAT = "/v1/chat/completions"
ACTIVATIONS = "/v1/chat/completions/with_activations"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}
HOOKS = {"activation_hooks": [{"layer_name": "transformer.h.5", "component": "attention", "hook_id": "h"}]}
ROUTES = [
    pytest.param(CHAT, True, id="sse"),
    pytest.param(CHAT, False, id="json"),
    pytest.param(ACTIVATIONS, True, id="ndjson"),
    pytest.param(ACTIVATIONS, False, id="json with activations"),
]
CANCEL_S = 1.0
"""How soon a generation must be cancelled; milliseconds in fact."""


@contextmanager
def posted(gateway: RunningGateway, path: str, body: dict[str, Any]) -> Generator[socket.socket]:
    """A connection on which a request has been sent."""
    where = urlsplit(gateway.url)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield connection


@pytest.mark.parametrize(("path", "stream"), ROUTES)
def test_leaving_during_the_prefill_cancels_it(
    gateway: RunningGateway, fake: FakeInference, path: str, stream: bool
) -> None:
    fake.script.prefill_s = 60
    body = HELLO | {"stream": stream} | (HOOKS if path == ACTIVATIONS else {})
    with posted(gateway, path, body):
        assert fake.prefilling.wait(10)
        assert not fake.cancelled.wait(0.1)
    assert fake.cancelled.wait(CANCEL_S)


@pytest.mark.parametrize(("path", "stream"), ROUTES)
def test_leaving_between_tokens_cancels_it(
    gateway: RunningGateway, fake: FakeInference, path: str, stream: bool
) -> None:
    fake.script.tokens = [Token("x")] * 1000
    fake.script.step_s = 0.05
    with posted(gateway, path, HELLO | {"stream": stream}) as connection:
        assert fake.prefilling.wait(10)
        time.sleep(0.2)
        if stream:
            assert b"200 OK" in connection.recv(4096)
    assert fake.cancelled.wait(CANCEL_S)


def test_leaving_during_a_load_cancels_it(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.script.prefill_s = 60
    with posted(gateway, "/v1/models/load", {"model_path": "x"}):
        time.sleep(0.2)
        assert not fake.cancelled.is_set()
    assert fake.cancelled.wait(CANCEL_S)


def test_the_gateway_serves_on_after_all_that(http: httpx.Client) -> None:
    assert http.post(CHAT, json=HELLO).status_code == 200


def test_the_stream_begins_before_the_prefill_ends(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.prefill_s = 60
    with http.stream("POST", CHAT, json=HELLO | {"stream": True}) as response:
        assert response.status_code == 200
        first = next(response.iter_lines())
        assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"


def test_tokens_are_sent_as_they_come(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.step_s = 0.3
    fake.script.tokens = [Token("a"), Token("b")]
    with http.stream("POST", ACTIVATIONS, json=HELLO | HOOKS | {"stream": True}) as response:
        times = [time.monotonic() for line in response.iter_lines() if line]
    assert times[1] - times[0] > 0.2


def test_a_silent_stream_is_kept_open(http: httpx.Client, fake: FakeInference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEPALIVE_S", 0.05)
    fake.script.prefill_s = 0.3
    text = http.post(CHAT, json=HELLO | {"stream": True}).text
    assert text.count(": keepalive\n\n") >= 3
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "error",
    [
        ActivationCaptureError("the capture broke", field="hooks[0].site"),
        ResourceExhaustedError("out of memory"),
        NeuroScopeIntegrationError("draining"),
    ],
)
@pytest.mark.parametrize("fail_after", [0, 2])
def test_an_error_after_the_first_byte_is_an_object(
    http: httpx.Client, fake: FakeInference, error: Any, fail_after: int
) -> None:
    fake.script.failure, fake.script.fail_after = error, fail_after
    param = "activation_hooks[0]" if error.field else None
    expected = {"error": {"message": error.message, "type": error.openai_type, "param": param, "code": error.code()}}
    *before, last = http.post(ACTIVATIONS, json=HELLO | HOOKS | {"stream": True}).text.splitlines()
    assert json.loads(last) == expected
    assert len(before) == fail_after
    whole = http.post(ACTIVATIONS, json=HELLO | HOOKS)
    assert (whole.status_code, whole.json()) == (error.http_status, expected)


def test_an_error_ends_an_event_stream_without_done(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.failure, fake.script.fail_after = ActivationCaptureError("the capture broke"), 1
    text = http.post(CHAT, json=HELLO | {"stream": True}).text
    last = text.removesuffix("\n\n").rpartition("\n\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the capture broke"
    assert "[DONE]" not in text


def test_a_service_that_breaks_is_an_object_too(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.failure = RuntimeError("boom")
    response = http.post(ACTIVATIONS, json=HELLO | {"stream": True})
    assert set(json.loads(response.text.splitlines()[-1])) == {"error"}
    assert http.post(CHAT, json=HELLO).status_code == 500


def test_a_stream_without_its_end_is_an_error(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.drop_manifest = True
    response = http.post(CHAT, json=HELLO)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "stream_broken")


def test_a_fault_of_ours_in_a_stream_is_an_object_without_its_inside(
    http: httpx.Client, fake: FakeInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(tensor_json, "activation_json", broken)
    fake.script.step_s = 60
    response = http.post(ACTIVATIONS, json=HELLO | HOOKS | {"stream": True})
    assert json.loads(response.text.splitlines()[-1])["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert fake.cancelled.wait(CANCEL_S)


def test_many_streams_at_once(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.script = Script(tokens=[Token(str(number)) for number in range(5)], step_s=0.02)
    bodies = [HELLO | {"stream": True} for _ in range(12)]
    with httpx.Client(base_url=gateway.url, timeout=30) as client, answered(client, bodies) as responses:
        texts = ["".join(_contents(response)) for response in responses]
    assert texts == ["01234"] * 12


@contextmanager
def answered(client: httpx.Client, bodies: list[dict[str, Any]]) -> Generator[list[httpx.Response]]:
    """Every request sent before the first answer is read."""
    with ExitStack() as stack:
        yield [stack.enter_context(client.stream("POST", CHAT, json=body)) for body in bodies]


def _contents(response: httpx.Response) -> Generator[str]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
