"""Made-up traces: the spans of a generation over client, gateway and inference."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

TRACE_ID = bytes(range(16))
BEGIN_NS = 1_700_000_000_000_000_000


def span(
    name: str,
    number: int,
    parent: int = 0,
    start_us: float = 0,
    end_us: float = 1,
    attributes: dict[str, int | str | float | bool] | None = None,
    error: str = "",
) -> Span:
    """A span; `number` and `parent` become the ids, 0 is no parent; times are since the trace began."""
    made = Span(
        trace_id=TRACE_ID,
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        start_time_unix_nano=BEGIN_NS + round(start_us * 1000),
        end_time_unix_nano=BEGIN_NS + round(end_us * 1000),
        attributes=[KeyValue(key=key, value=_any_value(value)) for key, value in (attributes or {}).items()],
    )
    if error:
        made.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=error))
    return made


def service(name: str, *spans: Span) -> TracesData:
    """What one service answers."""
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value=name))])
    return TracesData(resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])])


def generation(steps: int) -> list[bytes]:
    """The answers of client, gateway and inference about one generation with that many decode steps."""
    step_us = 2_000.0
    end_us = 9_000 + steps * step_us
    inference = [
        span("Generate", 3, 2, 2_500, end_us + 500, {"neuroscope.tokens": steps + 1}),
        span("prefill", 4, 3, 3_000, 8_500, {"neuroscope.tokens": 12, "neuroscope.bytes": 1_234_567}),
    ]
    for step in range(1, steps + 1):
        start_us = 9_000 + (step - 1) * step_us
        attributes: dict[str, int | str | float | bool] = {
            "neuroscope.step": step,
            "neuroscope.tokens": 1,
            "neuroscope.bytes": 48_128,
        }
        wobble_us = 37 * (step % 7)
        inference.append(span("decode", 2 * step + 10, 3, start_us, start_us + 1_500 + wobble_us, attributes))
        inference.append(span("serialise", 2 * step + 11, 3, start_us + 1_550 + wobble_us, start_us + 1_900))
    client = service("neuroscope-client", span("neuroscope.generate", 1, 0, 0, end_us + 2_000))
    gateway = service("neuroscope-gateway", span("POST /v1/chat/completions", 2, 1, 1_000, end_us + 1_200))
    return [part.SerializeToString() for part in (client, gateway, service("neuroscope-inference", *inference))]


def _any_value(value: int | str | float | bool) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
