"""Bad requests to a real gateway before a real service: right status, field named, nothing lost, others served.

python -m pytest tests/integration/test_bad_requests.py
"""

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.services import Service, inference_service, running

CHAT = "/v1/chat/completions"
CAPTURES = "/v1/activations/captures"
HELLO = [{"role": "user", "content": "Hello there"}]
HUGE_BYTES = 100_000_000
GROWTH_BYTES = 64_000_000
"""What a gateway may grow by while it refuses HUGE_BYTES."""


@pytest.fixture(scope="module")
def behind(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that loads models of one empty folder, and its own."""
    allowed = tmp_path_factory.mktemp("allowed")
    arguments = ("--model-dirs", str(allowed), "--token", "right")
    with inference_service(llama_dir, arguments=arguments) as service:
        yield service


@pytest.fixture(scope="module")
def gateway(behind: Service) -> Iterator[Service]:
    arguments = ("--port", "0", "--inference", behind.target, "--body-timeout-seconds", "2", "--api-keys", "key")
    environment = {"NEUROSCOPE_GATEWAY_INFERENCE_TOKEN": "right"}
    with running("neuroscope_gateway", *arguments, environment=environment) as service:
        yield service


@pytest.fixture
def http(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=60, headers={"Authorization": "Bearer key"}) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_is_lost_and_others_are_served(http: httpx.Client, request: pytest.FixtureRequest) -> Iterator[None]:
    """A registered hook, a kept capture and a stream that runs meanwhile are there afterwards as they were before."""
    hook = {"component": "residual", "layer_name": "blocks.1", "hook_id": "kept"}
    assert http.post("/v1/activations/hooks", json=hook).status_code == 200
    body = {"messages": HELLO, "max_tokens": 3, "activation_hooks": ["kept"], "capture_id": "kept"}
    assert http.post(f"{CHAT}/with_activations", json=body).status_code == 200
    before = http.get(f"{CAPTURES}/kept/0").content
    with httpx.stream(
        "POST",
        f"{http.base_url}{CHAT}",
        json={"messages": HELLO, "max_tokens": 100, "stream": True},
        headers={"Authorization": "Bearer key"},
        timeout=60,
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert http.get(f"{CAPTURES}/kept/0").content == before
    assert [kept["hook_id"] for kept in http.get("/v1/activations/hooks").json()["hooks"]] == ["kept"]
    http.delete("/v1/activations/hooks")
    http.delete(f"{CAPTURES}/kept")


def told(response: httpx.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["code"]


@pytest.mark.parametrize("path", ["/etc", "../..", "some/repository"])
def test_a_path_outside_the_allow_list(http: httpx.Client, path: str) -> None:
    response = http.post("/v1/models/load", json={"model_path": path})
    assert told(response) == (403, "model_path", "permission_denied")


@pytest.mark.parametrize(
    ("role", "field"), [("wizard", "role"), ("tool", "tool_call_id"), ("", "role"), ("USER", "role")]
)
def test_an_unknown_role_and_a_tool_without_a_call(http: httpx.Client, role: str, field: str) -> None:
    messages = [*HELLO, {"role": role, "content": "x"}]
    for path in (CHAT, f"{CHAT}/with_activations"):
        response = http.post(path, json={"messages": messages})
        assert told(response) == (400, f"messages[1].{field}", "invalid_request")


@pytest.mark.parametrize("data", [b'{"messages": "\xff\xfe"}', b"\xc3\x28{}", '{"model": "é"}'.encode("latin-1")])
def test_invalid_utf_8(http: httpx.Client, data: bytes) -> None:
    response = http.post(CHAT, content=data, headers={"Content-Type": "application/json"})
    assert told(response) == (400, None, "invalid_json")


def test_half_of_a_surrogate_pair(http: httpx.Client) -> None:
    data = b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'
    response = http.post(CHAT, content=data, headers={"Content-Type": "application/json"})
    assert told(response)[:2] == (400, "messages[0].content")


def _slices(total: int) -> Iterable[bytes]:
    slice_ = b" " * 1_000_000
    return (slice_ for _ in range(total // len(slice_)))


@pytest.mark.parametrize("has_length", [True, False], ids=["with its length", "in chunks"])
def test_a_body_of_100_mb(http: httpx.Client, gateway: Service, has_length: bool) -> None:
    before = gateway.resident_bytes()
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(HUGE_BYTES)} if has_length else {})
    try:
        response = http.post(CHAT, content=_slices(HUGE_BYTES), headers=headers)
    except httpx.WriteError:  # the gateway hung up while the client still sent, which is its right
        pass
    else:
        assert told(response) == (413, None, "request_too_large")
    assert gateway.resident_bytes() - before < GROWTH_BYTES


def test_a_body_of_100_mb_is_told_before_it_is_sent(gateway: Service) -> None:
    answer = spoken(gateway, _head(HUGE_BYTES))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"max_body_bytes" in answer


def test_half_a_request(gateway: Service) -> None:
    for data, status in ((_head(100) + b'{"messages"', b"408"), (b"POST /v1/chat", None)):
        began = time.monotonic()
        answer = spoken(gateway, data, leaves=status is None)
        assert time.monotonic() - began < 20
        if status is not None:
            assert answer.startswith(b"HTTP/1.1 " + status)


def test_half_a_request_of_many(gateway: Service, http: httpx.Client) -> None:
    connections = [socket.create_connection(("127.0.0.1", gateway.port), timeout=10) for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(_head(100) + b"{")
        assert http.post(CHAT, json={"messages": HELLO, "max_tokens": 1}).status_code == 200
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a2V5"}])
def test_a_wrong_key(gateway: Service, header: dict[str, str]) -> None:
    response = httpx.post(f"{gateway.target}{CHAT}", json={"messages": HELLO}, headers=header)
    assert told(response) == (401, None, "invalid_api_key")


def test_a_gateway_with_a_wrong_token(behind: Service) -> None:
    environment = {"NEUROSCOPE_GATEWAY_INFERENCE_TOKEN": "wrong"}
    with running("neuroscope_gateway", "--port", "0", "--inference", behind.target, environment=environment) as other:
        response = httpx.post(f"{other.target}{CHAT}", json={"messages": HELLO}, timeout=30)
        assert told(response)[::2] == (502, "inference_unauthenticated")
        assert "right" not in response.text


def test_a_foreign_origin(http: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    response = http.delete("/v1/activations/hooks", headers=headers)
    assert told(response) == (403, None, "origin_not_allowed")
    assert "access-control-allow-origin" not in response.headers


def test_many_bad_requests_at_once(http: httpx.Client) -> None:
    bad: list[dict[str, Any]] = [
        {"messages": HELLO, "temperature": 9},
        {"messages": []},
        {"messages": HELLO, "activation_hooks": [{"component": "nothing"}]},
        {"messages": HELLO, "model": "nobody"},
    ]
    statuses: list[int] = []

    def ask(body: dict[str, Any]) -> None:
        statuses.append(http.post(f"{CHAT}/with_activations", json=body).status_code)

    threads = [threading.Thread(target=ask, args=(body,)) for body in bad * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(statuses)) == [400, 404]
    assert len(statuses) == len(threads)


def _head(length: int) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer key\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def spoken(gateway: Service, data: bytes, *, leaves: bool = False) -> bytes:
    """What comes back for some bytes, after which nothing follows."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(data)
        if leaves:
            return b""
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer
