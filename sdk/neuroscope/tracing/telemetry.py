"""Traces, one from the client's call down to each decode step over as many processes as it takes, and metrics.

    telemetry.configure("neuroscope-inference")                     once, in a process of ours
    with telemetry.tracer().start_as_current_span("prefill", context=telemetry.extract(metadata)) as span:
        span.set_attribute(telemetry.TOKENS, 12)
    telemetry.recent_trace(trace_id)                                the spans that ended, as bytes
    telemetry.meter()                                               makes instruments of OpenTelemetry

A process keeps the spans of its recent traces in memory, bounded, so that a trace can be asked for without a
collector; it sends them to one as well when the standard variables OTEL_EXPORTER_OTLP_* name it (OTLP over HTTP). What
a caller does not sample costs nothing: by default a trace is recorded only if whoever began it asked for that.

A program that uses the SDK as a library need not call `configure`: spans then go where its own OpenTelemetry set-up
sends them, or nowhere. Knows nothing of gRPC and HTTP beyond the header `traceparent`.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from neuroscope.errors import InvalidRequestError, UnknownIdError

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

TOKENS = "neuroscope.tokens"
"""Attribute: tokens read or written within the span."""
BYTES = "neuroscope.bytes"
"""Attribute: bytes of tensors that the span produced or carried."""
STEP = "neuroscope.step"
"""Attribute: step of the generation, 0 the prefill."""
DROPPED_SPANS = "neuroscope.dropped_spans"
"""Attribute of a resource: spans of the trace that found no room in the store."""

MAX_TRACES = 64
MAX_SPANS_PER_TRACE = 20_000
MAX_SPANS = 200_000

_INSTRUMENTATION = "neuroscope"
_PROPAGATOR = TraceContextTextMapPropagator()
_UNRECORDED = nullcontext(trace.INVALID_SPAN)
_METRICS_SHUTDOWN_MILLIS = 2000


@dataclass(slots=True)
class _Trace:
    spans: list[ReadableSpan] = field(default_factory=list)
    dropped_count: int = 0


class SpanStore:
    """The ended spans of recent traces; the oldest trace goes when there are too many traces or spans. Thread-safe."""

    def __init__(
        self, max_traces: int = MAX_TRACES, max_spans_per_trace: int = MAX_SPANS_PER_TRACE, max_spans: int = MAX_SPANS
    ) -> None:
        self._max_traces = max_traces
        self._max_spans_per_trace = max_spans_per_trace
        self._max_spans = max_spans
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._span_count = 0
        self._lock = threading.Lock()

    def add(self, span: ReadableSpan) -> None:
        """Keeps an ended span."""
        context = span.get_span_context()
        if context is None:
            return
        with self._lock:
            kept = self._traces.setdefault(context.trace_id, _Trace())
            if len(kept.spans) >= self._max_spans_per_trace:
                kept.dropped_count += 1
                return
            kept.spans.append(span)
            self._span_count += 1
            while len(self._traces) > self._max_traces or (
                self._span_count > self._max_spans and len(self._traces) > 1
            ):
                _, oldest = self._traces.popitem(last=False)
                self._span_count -= len(oldest.spans)

    def get(self, trace_id: str) -> tuple[Sequence[ReadableSpan], int]:
        """The spans of a trace in the order in which they ended, and how many were dropped.

        Raises:
            InvalidRequestError: trace_id is not 32 hexadecimal digits.
            UnknownIdError: no span of that trace is kept.
        """
        number = _parse_trace_id(trace_id)
        with self._lock:
            kept = self._traces.get(number)
            if kept is None:
                raise UnknownIdError(
                    f"no trace {trace_id} is kept here: it was not recorded, none of its spans has ended, or newer"
                    " traces took its place",
                    field="trace_id",
                )
            return tuple(kept.spans), kept.dropped_count


_lock = threading.Lock()
_provider: TracerProvider | None = None
_meters: MeterProvider | None = None  # made when a meter is asked for
_tracer: trace.Tracer | None = None  # of the provider: asking it for one is dearer than a decode step's spans together
_store = SpanStore()


def configure(service_name: str, *, record_roots: bool = False) -> None:
    """Makes this process record spans under a service's name; a later call replaces an earlier one.

    A trace that comes from a caller is recorded if the caller samples it. One that begins here is recorded if
    `record_roots` is set or a collector is configured. OTEL_TRACES_SAMPLER overrides both, OTEL_SDK_DISABLED turns all
    of it off, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are honoured.

    Args:
        service_name: such as neuroscope-inference.
        record_roots: records what begins in this process.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

    class StoreProcessor(SpanProcessor):
        """Puts every ended span in the store."""

        def on_end(self, span: ReadableSpan) -> None:
            _store.add(span)

    global _provider, _tracer
    exports = _exports("TRACES")
    sampler = None  # the SDK reads OTEL_TRACES_SAMPLER
    if not os.environ.get("OTEL_TRACES_SAMPLER"):
        sampler = ParentBased(ALWAYS_ON if record_roots or exports else ALWAYS_OFF)
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or service_name})
    provider = TracerProvider(sampler=sampler, resource=resource)
    provider.add_span_processor(StoreProcessor())
    if exports:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    with _lock:
        previous, _provider, _tracer = _provider, provider, provider.get_tracer(_INSTRUMENTATION)
    if previous is not None:
        previous.shutdown()


def shutdown() -> None:
    """Sends what a collector has not got yet, stops recording and forgets every span. Safe to call twice."""
    global _provider, _tracer, _store, _meters
    with _lock:
        previous, _provider, _tracer, _store = _provider, None, None, SpanStore()
        meters, _meters = _meters, None
    if meters is not None:
        meters.shutdown(_METRICS_SHUTDOWN_MILLIS)
    if previous is not None:
        previous.shutdown()


def tracer() -> trace.Tracer:
    """The tracer of this process: the one that `configure` made, else that of the program's own set-up."""
    configured = _tracer
    return trace.get_tracer(_INSTRUMENTATION) if configured is None else configured


def child_span(name: str, context: Context) -> AbstractContextManager[trace.Span]:
    """A span within the one that a context carries, for work that is done many times a second.

    Costs next to nothing where that span, of this process, is not recorded: then this one would not be either.
    """
    if not trace.get_current_span(context).is_recording():
        return _UNRECORDED
    return tracer().start_as_current_span(name, context=context)


def meter() -> metrics.Meter:
    """The meter of this process: one that sends to the collector of the environment, else the program's own.

    A process that `configure` has named sends its metrics at the pace of OTEL_METRIC_EXPORT_INTERVAL. Without a
    collector and without a set-up of the program's own, instruments cost next to nothing.
    """
    global _meters
    with _lock:
        if _meters is None and _provider is not None and _exports("METRICS"):
            _meters = _exporting_meters(_provider.resource)
        return metrics.get_meter(_INSTRUMENTATION) if _meters is None else _meters.get_meter(_INSTRUMENTATION)


def inject(context: Context | None = None) -> list[tuple[str, str]]:
    """The metadata that carries a context, by default the current one, to another process; empty outside of a trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return list(carrier.items())


def extract(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """The context that a request's metadata or HTTP headers carry; empty where they carry none or a broken one."""
    carrier = {key.lower(): value for key, value in metadata if isinstance(value, str)}
    return _PROPAGATOR.extract(carrier, Context())


def trace_id_of(span: trace.Span) -> str:
    """The trace id of a span, ended or not, as 32 hexadecimal digits; empty if the span is not recorded."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else ""


def recent_trace(trace_id: str) -> bytes:
    """The ended spans of a trace of this process, as a serialised `opentelemetry.proto.trace.v1.TracesData`.

    Args:
        trace_id: W3C trace id, 32 hexadecimal digits.

    Raises:
        InvalidRequestError: trace_id is not 32 hexadecimal digits.
        UnknownIdError: no span of that trace is kept.
    """
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    spans, dropped_count = _store.get(trace_id)
    data = TracesData(resource_spans=encode_spans(spans).resource_spans)
    if dropped_count:
        attribute = data.resource_spans[0].resource.attributes.add(key=DROPPED_SPANS)
        attribute.value.int_value = dropped_count
    return data.SerializeToString()


def merge(parts: Iterable[bytes]) -> TracesData:
    """Several answers of `recent_trace` as one message; a span that came twice is kept once, the first time.

    Raises:
        google.protobuf.message.DecodeError: a part is not a TracesData.
    """
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    merged = TracesData()
    seen: set[tuple[bytes, bytes]] = set()
    for part in parts:
        for resource_spans in TracesData.FromString(part).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                fresh = [span for span in scope_spans.spans if (span.trace_id, span.span_id) not in seen]
                seen.update((span.trace_id, span.span_id) for span in fresh)
                del scope_spans.spans[:]
                scope_spans.spans.extend(fresh)
            if any(scope_spans.spans for scope_spans in resource_spans.scope_spans):
                merged.resource_spans.append(resource_spans)
    return merged


def _exporting_meters(resource: Resource) -> MeterProvider:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource, shutdown_on_exit=False)


def _exports(signal: str) -> bool:
    """Whether the environment names a collector for TRACES or METRICS."""
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() == "none":
        return False
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(os.environ.get(name) for name in variables)


def _parse_trace_id(trace_id: str) -> int:
    if re.fullmatch(r"[0-9a-fA-F]{32}", trace_id):
        return int(trace_id, 16)
    raise InvalidRequestError(f"a trace id is 32 hexadecimal digits, not {trace_id!r}", field="trace_id")
