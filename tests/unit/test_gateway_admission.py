"""Keys, requests at one time, half requests.

python -m pytest tests/unit/test_gateway_admission.py
"""

import socket
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from neuroscope.errors import ResourceExhaustedError
from neuroscope_gateway.settings import GatewaySettings
from tests.support.running_gateway import RunningGateway, running_gateway

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
ORIGIN = "http://localhost:3000"


@pytest.fixture(scope="module")
def locked() -> Generator[RunningGateway]:
    with running_gateway(api_keys="first,sécond") as running:
        yield running


@pytest.fixture(scope="module")
def narrow() -> Generator[RunningGateway]:
    with running_gateway(max_concurrent_requests=2, body_timeout_seconds=0.5) as running:
        yield running


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Bearer firs", "Bearer first2", "Basic first", "first"],
)
def test_without_a_key_nothing_is_answered(locked: RunningGateway, header: str | None) -> None:
    count = len(locked.fake.requests)
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/openapi.json"), ("GET", "/nothing")):
        response = httpx.request(method, locked.url + path, headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (401, "invalid_api_key")
        assert set(error) == {"message", "type", "param", "code"}
        assert response.headers["www-authenticate"] == "Bearer"
        assert "first" not in response.text
    assert len(locked.fake.requests) == count


@pytest.mark.parametrize("header", ["Bearer first", "bearer first", "Bearer  first"])
def test_with_a_key_everything_is(locked: RunningGateway, header: str) -> None:
    assert httpx.get(f"{locked.url}/v1/models", headers={"Authorization": header}).status_code == 200


def test_a_key_may_be_of_any_letters(locked: RunningGateway) -> None:
    headers = [(b"Authorization", "Bearer sécond".encode())]
    assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == 200


def test_health_and_preflights_need_no_key(locked: RunningGateway) -> None:
    assert httpx.get(f"{locked.url}/health").status_code == 200
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert httpx.options(locked.url + CHAT, headers=headers).status_code == 204
    refused = httpx.post(locked.url + CHAT, json=HELLO, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # so that the page can read why


def test_openais_client_sends_its_key(locked: RunningGateway) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="first", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"


def test_keys_are_not_printed() -> None:
    assert "secret" not in repr(GatewaySettings(api_keys=("secret",)))


def test_one_request_too_many_is_told_when_to_come_back(narrow: RunningGateway) -> None:
    narrow.fake.reset()
    narrow.fake.script.prefill_s = 1.5
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(httpx.post, narrow.url + CHAT, json=HELLO, timeout=30) for _ in range(2)]
        deadline = time.monotonic() + 10
        while len(narrow.fake.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        response = httpx.post(narrow.url + CHAT, json=HELLO)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] == "1"
        assert httpx.get(f"{narrow.url}/health").status_code == 200
        assert [future.result().status_code for future in running] == [200, 200]
    narrow.fake.reset()
    assert httpx.post(narrow.url + CHAT, json=HELLO).status_code == 200


def test_a_limit_of_the_service_says_when_to_come_back(narrow: RunningGateway) -> None:
    narrow.fake.script.refusal = ResourceExhaustedError("64 streams are open")
    response = httpx.post(narrow.url + CHAT, json=HELLO)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    narrow.fake.reset()


def spoken(gateway: RunningGateway, data: bytes, *, closes: bool = False) -> bytes:
    """What comes back for some bytes, after which nothing follows."""
    port = int(gateway.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        if closes:
            return b""
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def test_half_a_body_ends_with_408(narrow: RunningGateway) -> None:
    count = len(narrow.fake.requests)
    for rest in (b'Content-Length: 100\r\n\r\n{"messages"', b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mes\r\n'):
        answer = spoken(narrow, HEAD + rest)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer
    assert len(narrow.fake.requests) == count


def test_clients_that_leave_in_the_middle_leave_room(narrow: RunningGateway) -> None:
    for data in (HEAD + b'Content-Length: 100\r\n\r\n{"messages"', HEAD, b"POST", b"\x16\x03\x01\x02\x00"):
        for _ in range(4):
            spoken(narrow, data, closes=True)
    assert httpx.post(narrow.url + CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"\x00\xff\xfe\r\n\r\n", HEAD + b"Content-Length: -5\r\n\r\n"],
)
def test_what_is_no_http_is_400(narrow: RunningGateway, data: bytes) -> None:
    assert spoken(narrow, data).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{narrow.url}/health").status_code == 200


def test_many_at_once_are_answered_or_told_to_come_back(narrow: RunningGateway) -> None:
    barrier = threading.Barrier(16)

    def ask(_: int) -> int:
        barrier.wait(10)
        return httpx.post(narrow.url + CHAT, json=HELLO, timeout=30).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(ask, range(16)))
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 2
