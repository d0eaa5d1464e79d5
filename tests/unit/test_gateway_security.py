"""Hosts, origins and sizes.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_security.py"""

import json
from collections.abc import Generator, Iterator

import httpx
import pytest

from tests.support.running_gateway import RunningGateway, running_gateway

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def open_gateway() -> Generator[RunningGateway]:
    """One that is told of a lab's names and takes small bodies."""
    with running_gateway(
        allowed_hosts="lab.example,127.0.0.1", allowed_origins="https://lab.example,http://dev:*", max_body_bytes=1000
    ) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080"])
def test_it_answers_under_its_own_names(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.", "[::2]", ""]
)
def test_it_does_not_answer_under_others(http: httpx.Client, host: str) -> None:
    response = http.get("/v1/models", headers={"Host": host})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1", "https://localhost", "http://[::1]:80"]
)
def test_pages_of_this_machine_may_call(http: httpx.Client, origin: str) -> None:
    response = http.post(CHAT, json=HELLO, headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert "origin" in response.headers["vary"].lower()
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-neuroscope-shape", "x-neuroscope-dtype", "content-range", "retry-after"} <= set(exposed)


def test_streams_carry_the_headers_too(http: httpx.Client) -> None:
    response = http.post(CHAT, json=HELLO | {"stream": True}, headers={"Origin": "http://localhost:3000"})
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_errors_can_be_read_by_the_page(http: httpx.Client) -> None:
    response = http.post(CHAT, json={}, headers={"Origin": "http://localhost:3000"})
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "http://[", "http://localhost:x", "file://"],
)
def test_other_pages_may_not(http: httpx.Client, gateway: RunningGateway, origin: str) -> None:
    count = len(gateway.fake.requests)
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("DELETE", "/v1/activations/hooks"), ("OPTIONS", CHAT)):
        response = http.request(method, path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in response.headers
    assert len(gateway.fake.requests) == count


def test_a_call_without_an_origin_has_no_cors_headers(http: httpx.Client) -> None:
    assert "access-control-allow-origin" not in http.get("/health").headers


def test_a_preflight(http: httpx.Client) -> None:
    response = http.options(
        CHAT,
        headers={
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-stainless-lang,traceparent",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert response.status_code == 204
    headers = response.headers
    assert headers["access-control-allow-origin"] == "http://localhost:3000"
    assert headers["access-control-allow-headers"] == "content-type,x-stainless-lang,traceparent"
    assert {"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-allow-private-network"] == "true"


def test_configured_names(open_gateway: RunningGateway) -> None:
    with httpx.Client(base_url=open_gateway.url) as client:
        allowed = {"https://lab.example": 200, "http://dev:5173": 200, "http://dev": 200}
        refused = {"http://lab.example": 403, "https://lab.example:8443": 403, "http://localhost:3000": 403}
        for origin, status in (allowed | refused).items():
            assert client.get("/health", headers={"Origin": origin}).status_code == status, origin
        assert client.get("/health", headers={"Host": "lab.example:80"}).status_code == 200
        assert client.get("/health", headers={"Host": "localhost"}).status_code == 403


def test_the_gateways_own_pages_may_call(open_gateway: RunningGateway) -> None:
    headers = {"Host": "lab.example:8080", "Origin": "http://lab.example:8080"}
    assert httpx.get(f"{open_gateway.url}/health", headers=headers).status_code == 200


def test_a_body_that_is_too_large_is_413(open_gateway: RunningGateway) -> None:
    for size in (1001, 300_000, 30_000_000):
        response = httpx.post(
            f"{open_gateway.url}{CHAT}", content=b"x" * size, headers={"Content-Type": "application/json"}
        )
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (413, "request_too_large")
        assert "1000 bytes" in error["message"]


def test_a_body_of_unknown_length_is_counted(open_gateway: RunningGateway) -> None:
    def parts(size: int) -> Iterator[bytes]:
        body = json.dumps(HELLO).encode()
        yield body + b" " * (size - len(body))

    url = f"{open_gateway.url}{CHAT}"
    assert httpx.post(url, content=parts(1000), headers={"Content-Type": "application/json"}).status_code == 200
    response = httpx.post(url, content=parts(1001), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    many = (b" " * 100 for _ in range(10_000))
    response = httpx.post(url, content=many, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_everyone_may_be_let_in() -> None:
    with running_gateway(allowed_hosts="*", allowed_origins=["*"]) as running:
        headers = {"Host": "any.example", "Origin": "https://other.example"}
        response = httpx.get(f"{running.url}/health", headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://other.example"
