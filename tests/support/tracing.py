"""Traces that a test begins, and what a service recorded of them."""

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from neuroscope.errors import UnknownIdError
from neuroscope.v1 import telemetry_pb2
from neuroscope.wire.rpc import RPCS, Rpc


class UnaryTransport(Protocol):
    """What of a transport is used here."""

    def unary(self, rpc: Rpc, request: Any, *, timeout_s: float | None = None) -> Any:
        """One request, one response."""
        ...


@contextmanager
def traced() -> Generator[tuple[str, str]]:
    """A sampled trace around the calls of a block: its trace id and the id of the span that calls it."""
    trace_id, span_id = secrets.randbits(128), secrets.randbits(64)
    context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(context)):
        yield trace.format_trace_id(trace_id), trace.format_span_id(span_id)


def spans(transport: UnaryTransport, trace_id: str) -> list[Span]:
    """The ended spans of a trace at the service."""
    try:
        response = transport.unary(RPCS["GetTrace"], telemetry_pb2.GetTraceRequest(trace_id=trace_id))
    except UnknownIdError:
        return []
    data = TracesData.FromString(response.traces_data)
    return [span for resource in data.resource_spans for scope in resource.scope_spans for span in scope.spans]


def ended_span(transport: UnaryTransport, trace_id: str, name: str, timeout_s: float = 20) -> Span:
    """A span of that name, once it has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := [span for span in spans(transport, trace_id) if span.name == name]:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no span {name!r} ended within {timeout_s:g} s")


def attributes(span: Span) -> dict[str, int | str]:
    """A span's attributes that are integers or strings."""
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
