"""Traces across processes, from the client's call down to each decode step, and metrics.

    telemetry.configure("neuroscope-inference")                     once per process
    with telemetry.tracer().start_as_current_span("prefill", context=telemetry.extract(metadata)) as span:
        span.set_attribute(telemetry.TOKENS, 12)
    telemetry.recent_trace(trace_id)                                its finished spans, serialised
    telemetry.meter()                                               makes OpenTelemetry instruments

A process keeps a bounded number of spans of recent traces in memory, so that a trace can be read without a collector.
If the standard variables OTEL_EXPORTER_OTLP_* name a collector, spans are also exported to it (OTLP over HTTP). By
default a trace is recorded only if the caller that started it samples it; other calls cost nothing.

A program that uses the SDK as a library need not call `configure`: its own OpenTelemetry configuration then decides
where spans go. Context crosses processes in the header `traceparent`.
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
"""Resource attribute: spans of the trace that the store dropped."""

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
    """The finished spans of recent traces. When it is full, the oldest trace is dropped. Thread-safe."""

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
        """Stores a finished span."""
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
        """The spans of a trace in the order in which they ended, and the number of dropped ones.

        Raises:
            InvalidRequestError: trace_id is not 32 hexadecimal digits.
            UnknownIdError: no span of that trace is stored.
        """
        number = _parse_trace_id(trace_id)
        with self._lock:
            kept = self._traces.get(number)
            if kept is None:
                raise UnknownIdError(
                    f"no trace {trace_id} is stored: it was not recorded, none of its spans has ended, or newer"
                    " traces took its place",
                    field="trace_id",
                )
            return tuple(kept.spans), kept.dropped_count


_lock = threading.Lock()
_provider: TracerProvider | None = None
_meters: MeterProvider | None = None  # made on first use
_tracer: trace.Tracer | None = None  # cached: getting one from the provider costs more than all spans of a decode step
_store = SpanStore()


def configure(service_name: str, *, record_roots: bool = False) -> None:
    """Records spans of this process under a service name. A later call replaces an earlier one.

    A trace from a caller is recorded if the caller samples it. A trace that starts here is recorded if `record_roots`
    is set or a collector is configured. OTEL_TRACES_SAMPLER overrides both, OTEL_SDK_DISABLED disables tracing;
    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are honoured.

    Args:
        service_name: such as neuroscope-inference.
        record_roots: records traces that start in this process.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

    class StoreProcessor(SpanProcessor):
        """Stores every finished span."""

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
    """Exports pending spans, stops recording and drops all spans. It may be called twice."""
    global _provider, _tracer, _store, _meters
    with _lock:
        previous, _provider, _tracer, _store = _provider, None, None, SpanStore()
        meters, _meters = _meters, None
    if meters is not None:
        meters.shutdown(_METRICS_SHUTDOWN_MILLIS)
    if previous is not None:
        previous.shutdown()


def tracer() -> trace.Tracer:
    """The tracer of this process: that of `configure`, otherwise that of the program's own configuration."""
    configured = _tracer
    return trace.get_tracer(_INSTRUMENTATION) if configured is None else configured


def child_span(name: str, context: Context) -> AbstractContextManager[trace.Span]:
    """A child of the span in a context, for work that runs many times a second.

    It costs almost nothing if the parent, a span of this process, is not recorded.
    """
    if not trace.get_current_span(context).is_recording():
        return _UNRECORDED
    return tracer().start_as_current_span(name, context=context)


def meter() -> metrics.Meter:
    """The meter of this process: one that exports to the environment's collector, otherwise the program's own.

    After `configure`, metrics are exported every OTEL_METRIC_EXPORT_INTERVAL. Without a collector and without a
    configuration of the program's own, instruments cost almost nothing.
    """
    global _meters
    with _lock:
        if _meters is None and _provider is not None and _exports("METRICS"):
            _meters = _exporting_meters(_provider.resource)
        return metrics.get_meter(_INSTRUMENTATION) if _meters is None else _meters.get_meter(_INSTRUMENTATION)


def inject(context: Context | None = None) -> list[tuple[str, str]]:
    """The metadata that carries a context (default: the current one) to another process; empty outside of a trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context)
    return list(carrier.items())


def extract(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """The context in a request's metadata or HTTP headers; empty if there is none or it is malformed."""
    carrier = {key.lower(): value for key, value in metadata if isinstance(value, str)}
    return _PROPAGATOR.extract(carrier, Context())


def trace_id_of(span: trace.Span) -> str:
    """The trace id of a span as 32 hexadecimal digits; empty if the span is not recorded."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else ""


def recent_trace(trace_id: str) -> bytes:
    """The finished spans of a trace of this process, as a serialised `opentelemetry.proto.trace.v1.TracesData`.

    Args:
        trace_id: W3C trace id, 32 hexadecimal digits.

    Raises:
        InvalidRequestError: trace_id is not 32 hexadecimal digits.
        UnknownIdError: no span of that trace is stored.
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
    """Merges several results of `recent_trace`. Of spans that occur twice, the first is kept.

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
    """Whether the environment names a collector for the signal, TRACES or METRICS."""
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() == "none":
        return False
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(os.environ.get(name) for name in variables)


def _parse_trace_id(trace_id: str) -> int:
    if re.fullmatch(r"[0-9a-fA-F]{32}", trace_id):
        return int(trace_id, 16)
    raise InvalidRequestError(f"a trace id is 32 hexadecimal digits, not {trace_id!r}", field="trace_id")
