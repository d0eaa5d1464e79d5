"""neuroscope.tracing.telemetry: recording, the bounded store, propagation, merging, export."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from neuroscope.errors import InvalidRequestError, UnknownIdError
from neuroscope.tracing import telemetry


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_TRACES_SAMPLER",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    telemetry.shutdown()


@contextmanager
def collector() -> Generator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that takes what is exported: its URL, and the path and body of every request."""
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def _spans(data: bytes | TracesData) -> dict[str, Span]:
    message = data if isinstance(data, TracesData) else TracesData.FromString(data)
    return {span.name: span for r in message.resource_spans for s in r.scope_spans for span in s.spans}


def test_spans_of_a_trace_are_kept_with_names_parents_attributes_and_service():
    telemetry.configure("neuroscope-test", record_roots=True)
    with telemetry.tracer().start_as_current_span("Generate") as root:
        with telemetry.tracer().start_as_current_span("decode") as child:
            child.set_attribute(telemetry.STEP, 3)
        trace_id = telemetry.trace_id_of(root)
    data = telemetry.recent_trace(trace_id)
    spans = _spans(data)
    assert set(spans) == {"Generate", "decode"}
    assert spans["decode"].parent_span_id == spans["Generate"].span_id
    assert spans["decode"].trace_id.hex() == trace_id
    assert [(a.key, a.value.int_value) for a in spans["decode"].attributes] == [("neuroscope.step", 3)]
    resource = TracesData.FromString(data).resource_spans[0].resource
    assert {a.key: a.value.string_value for a in resource.attributes}["service.name"] == "neuroscope-test"


def test_a_trace_that_begins_here_is_not_recorded_unless_asked():
    telemetry.configure("neuroscope-test")
    with telemetry.tracer().start_as_current_span("Generate") as span:
        assert not span.is_recording()
        assert telemetry.trace_id_of(span) == ""


def test_a_caller_decides_whether_its_trace_is_recorded():
    telemetry.configure("neuroscope-test")
    sampled = [("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")]
    with telemetry.tracer().start_as_current_span("Generate", context=telemetry.extract(sampled)) as span:
        assert telemetry.trace_id_of(span) == "ab" * 16
    assert _spans(telemetry.recent_trace("ab" * 16))["Generate"].parent_span_id.hex() == "cd" * 8
    unsampled = [("traceparent", f"00-{'ef' * 16}-{'cd' * 8}-00")]
    with telemetry.tracer().start_as_current_span("Generate", context=telemetry.extract(unsampled)) as span:
        assert not span.is_recording()


def test_a_part_is_recorded_where_its_whole_is():
    telemetry.configure("neuroscope-test", record_roots=True)
    tracer = telemetry.tracer()
    with tracer.start_as_current_span("Generate") as root:
        context = trace.set_span_in_context(root)
    with tracer.start_as_current_span("Generate") as root:
        with telemetry.child_span("decode", trace.set_span_in_context(root)) as part:
            part.set_attribute(telemetry.STEP, 3)
            assert trace.get_current_span() is part
        with telemetry.child_span("late", context) as unrecorded:
            unrecorded.set_attribute(telemetry.STEP, 4)
            assert trace.get_current_span() is root
        trace_id = telemetry.trace_id_of(root)
    spans = _spans(telemetry.recent_trace(trace_id))
    assert set(spans) == {"Generate", "decode"}
    assert spans["decode"].parent_span_id == spans["Generate"].span_id


def test_inject_and_extract_round_trip():
    telemetry.configure("neuroscope-test", record_roots=True)
    assert telemetry.inject() == []
    with telemetry.tracer().start_as_current_span("neuroscope.generate") as span:
        metadata = telemetry.inject()
        assert telemetry.inject(trace.set_span_in_context(span)) == metadata
    context = trace.get_current_span(telemetry.extract(metadata)).get_span_context()
    assert context.span_id == span.get_span_context().span_id
    assert context.trace_flags.sampled
    assert context.is_remote


@pytest.mark.parametrize(
    "metadata", [[], [("traceparent", "nonsense")], [("grpc-trace-bin", b"\x00"), ("traceparent", b"x")]]
)
def test_metadata_without_a_usable_trace_gives_an_empty_context(metadata: list[tuple[str, str | bytes]]):
    telemetry.configure("neuroscope-test", record_roots=True)
    with telemetry.tracer().start_as_current_span("outer"):
        context = telemetry.extract(metadata)
        assert not trace.get_current_span(context).get_span_context().is_valid


def test_header_names_are_found_in_any_case():
    context = telemetry.extract([("Traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")])
    assert trace.get_current_span(context).get_span_context().is_valid


def test_unknown_and_malformed_trace_ids():
    with pytest.raises(UnknownIdError, match="no trace") as unknown:
        telemetry.recent_trace("0" * 31 + "1")
    assert unknown.value.field == "trace_id"
    for malformed in ("", "abc", "g" * 32):
        with pytest.raises(InvalidRequestError, match="32 hexadecimal digits"):
            telemetry.recent_trace(malformed)


def _record(store: telemetry.SpanStore, names: list[str], traces: int = 1) -> list[str]:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    ids: list[str] = []
    for _ in range(traces):
        with tracer.start_as_current_span("root") as root:
            for name in names:
                with tracer.start_as_current_span(name) as span:
                    pass
                store.add(span)  # pyright: ignore[reportArgumentType]  # the SDK's spans are readable
            ids.append(telemetry.trace_id_of(root))
    return ids


def test_the_oldest_trace_makes_room():
    store = telemetry.SpanStore(max_traces=2)
    first, second, third = _record(store, ["a"], traces=3)
    with pytest.raises(UnknownIdError):
        store.get(first)
    assert [len(store.get(kept)[0]) for kept in (second, third)] == [1, 1]


def test_a_long_trace_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch):
    store = telemetry.SpanStore(max_spans_per_trace=2)
    (trace_id,) = _record(store, ["a", "b", "c", "d", "e"])
    spans, dropped_count = store.get(trace_id)
    assert [span.name for span in spans] == ["a", "b"]
    assert dropped_count == 3
    monkeypatch.setattr(telemetry, "_store", store)
    resource = TracesData.FromString(telemetry.recent_trace(trace_id)).resource_spans[0].resource
    assert {a.key: a.value.int_value for a in resource.attributes}[telemetry.DROPPED_SPANS] == 3


def test_all_spans_together_are_bounded():
    store = telemetry.SpanStore(max_spans=5)
    first, second, third = _record(store, ["a", "b"], traces=3)
    with pytest.raises(UnknownIdError):
        store.get(first)
    assert len(store.get(second)[0]) + len(store.get(third)[0]) == 4


def test_merge_keeps_a_span_that_came_twice_once():
    telemetry.configure("neuroscope-test", record_roots=True)
    with telemetry.tracer().start_as_current_span("Generate") as root:
        with telemetry.tracer().start_as_current_span("prefill"):
            pass
        early = telemetry.recent_trace(telemetry.trace_id_of(root))
    late = telemetry.recent_trace(telemetry.trace_id_of(root))
    merged = telemetry.merge([early, late, late])
    assert sorted(s.name for r in merged.resource_spans for c in r.scope_spans for s in c.spans) == [
        "Generate",
        "prefill",
    ]
    assert len(merged.resource_spans) == 2
    assert not telemetry.merge([]).resource_spans


def test_spans_reach_the_collector_that_the_environment_names(monkeypatch: pytest.MonkeyPatch):
    with collector() as (url, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
        telemetry.configure("neuroscope-test")
        with telemetry.tracer().start_as_current_span("Generate"):
            pass
        telemetry.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    request = ExportTraceServiceRequest.FromString(body)
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "Generate"
    attributes = {a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "renamed"


def test_metrics_reach_the_collector_that_the_environment_names(monkeypatch: pytest.MonkeyPatch):
    with collector() as (url, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{url}/v1/metrics")
        telemetry.configure("neuroscope-test")
        telemetry.meter().create_counter("neuroscope.things").add(3)
        telemetry.shutdown()
    ((path, body),) = received
    assert path == "/v1/metrics"
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "neuroscope-test"
    (metric,) = resource.scope_metrics[0].metrics
    assert (metric.name, metric.sum.data_points[0].as_int) == ("neuroscope.things", 3)


def test_without_a_collector_a_meter_sends_nothing():
    telemetry.configure("neuroscope-test")
    telemetry.meter().create_counter("neuroscope.things").add(3)
    assert telemetry._meters is None


def test_importing_it_is_cheap():
    code = (
        "import sys, neuroscope.tracing.telemetry; print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
