"""Spans of requests.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_tracing.py"""

import time
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from neuroscope.errors import ActivationCaptureError, UnknownIdError
from neuroscope.tracing import telemetry
from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import RunningGateway

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01"}


@pytest.fixture(autouse=True)
def _recording() -> Generator[None]:
    telemetry.configure("neuroscope-gateway")
    yield
    telemetry.shutdown()


def server_span(count: int = 1) -> Span:
    """The gateway's span of the one request that was traced, once it has ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            found = [span for span in spans() if span.kind == Span.SPAN_KIND_SERVER]
        except UnknownIdError:
            found = []
        if len(found) == count:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError("the server span has not ended")


def spans() -> list[Span]:
    data = TracesData.FromString(telemetry.recent_trace(TRACE_ID))
    return [span for resource in data.resource_spans for scope in resource.scope_spans for span in scope.spans]


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@pytest.mark.parametrize("stream", [False, True])
def test_one_trace_from_the_caller_to_the_service(http: httpx.Client, fake: FakeInference, stream: bool) -> None:
    response = http.post(CHAT, json=HELLO | {"stream": stream}, headers=SAMPLED)
    assert response.headers["x-request-id"] == TRACE_ID
    span = server_span()
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (f"POST {CHAT}", TRACE_ID, PARENT)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.path": CHAT,
        "url.scheme": "http",
        "http.route": CHAT,
        "http.response.status_code": 200,
    }
    (client_span,) = [other for other in spans() if other.name == "neuroscope.generate"]
    assert client_span.parent_span_id == span.span_id
    assert span.start_time_unix_nano <= client_span.start_time_unix_nano
    assert client_span.end_time_unix_nano <= span.end_time_unix_nano
    sent = fake.metadata[-1]["traceparent"].split("-")
    assert (sent[1], sent[2], sent[3]) == (TRACE_ID, client_span.span_id.hex(), "01")


def test_the_span_of_a_stream_lasts_as_long_as_the_stream(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.step_s = 0.1
    http.post(CHAT, json=HELLO | {"stream": True}, headers=SAMPLED)
    span = server_span()
    assert span.end_time_unix_nano - span.start_time_unix_nano > 0.25e9


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_shows(http: httpx.Client, fake: FakeInference, stream: bool) -> None:
    fake.script.failure, fake.script.fail_after = ActivationCaptureError("broke"), 1
    http.post(CHAT, json=HELLO | {"stream": stream}, headers=SAMPLED)
    assert server_span().status.code == Status.STATUS_CODE_ERROR


def test_a_client_that_leaves_shows(http: httpx.Client, fake: FakeInference) -> None:
    fake.script.prefill_s = 60
    with http.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=SAMPLED):
        pass
    span = server_span()
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "client disconnected")
    assert {other.name for other in spans()} == {f"POST {CHAT}", "neuroscope.generate"}


def test_routes_have_one_name_whatever_their_parameters(http: httpx.Client) -> None:
    http.get("/v1/models/tiny", headers=SAMPLED)
    assert server_span().name == "GET /v1/models/{model_id:path}"


def test_what_the_caller_does_not_sample_is_not_recorded(http: httpx.Client) -> None:
    for header in ({}, {"traceparent": f"00-{TRACE_ID}-{PARENT}-00"}, {"traceparent": "nonsense"}):
        response = http.post(CHAT, json=HELLO, headers=header)
        assert len(response.headers["x-request-id"]) == 32
    with pytest.raises(UnknownIdError):
        spans()


def test_a_trace_can_be_asked_for(http: httpx.Client, fake: FakeInference, gateway: RunningGateway) -> None:
    http.post(CHAT, json=HELLO, headers=SAMPLED)
    server_span()
    service = TracesData()
    scope = service.resource_spans.add().scope_spans.add()
    scope.spans.add(trace_id=bytes.fromhex(TRACE_ID), span_id=b"12345678", name="Generate")
    fake.traces[TRACE_ID] = service.SerializeToString()
    response = http.get(f"/v1/traces/{TRACE_ID}")
    assert response.headers["content-type"] == "application/octet-stream"
    data = TracesData.FromString(response.content)
    names = {span.name for resource in data.resource_spans for part in resource.scope_spans for span in part.spans}
    assert names == {f"POST {CHAT}", "neuroscope.generate", "Generate"}


def test_a_trace_that_only_one_of_them_knows(http: httpx.Client, fake: FakeInference) -> None:
    fake.traces[TRACE_ID] = TracesData().SerializeToString()
    assert http.get(f"/v1/traces/{TRACE_ID}").status_code == 200
    fake.traces.clear()
    http.post(CHAT, json=HELLO, headers=SAMPLED)
    server_span()
    assert http.get(f"/v1/traces/{TRACE_ID}").status_code == 200


@pytest.mark.parametrize(("trace_id", "status"), [("f" * 32, 404), ("xyz", 400)])
def test_a_trace_that_is_not_there(http: httpx.Client, trace_id: str, status: int) -> None:
    response = http.get(f"/v1/traces/{trace_id}")
    assert (response.status_code, response.json()["error"]["param"]) == (status, "trace_id")
