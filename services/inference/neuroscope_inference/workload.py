"""Load metrics of the service, for GetWorkload and for OpenTelemetry. They are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from neuroscope.v1 import telemetry_pb2 as pb
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.shared_memory_pool import SharedMemoryPool
from neuroscope_serving.stream_limiter import StreamLimiter

_GAUGES = {
    "streams": "{stream}",
    "decoding_rows": "{row}",
    "weights_bytes": "By",
    "weights_budget_bytes": "By",
    "active_memory_bytes": "By",
    "peak_memory_bytes": "By",
    "shared_memory_streams": "{stream}",
}
_COUNTERS = {"generated_tokens": "{token}", "captured_bytes": "By", "shared_memory_bytes": "By"}


class Workload:
    """Load metrics of the engine, the limiter control and the shared memory."""

    def __init__(self, engine: Engine, limiter: StreamLimiter, sharing: SharedMemoryPool) -> None:
        self._engine = engine
        self._limiter = limiter
        self._shared_memory = sharing

    def snapshot(self) -> pb.GetWorkloadResponse:
        """The current values."""
        counters, registry = self._engine.counters, self._engine.registry
        return pb.GetWorkloadResponse(
            streams=self._limiter.running,
            decoding_rows=self._engine.decoding_rows,
            generated_tokens=counters.generated_tokens,
            captured_bytes=counters.captured_bytes,
            queue_wait_ms=1e3 * counters.queue_wait_s,
            weights_bytes=registry.held_bytes,
            weights_budget_bytes=registry.budget_bytes,
            active_memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            shared_memory_streams=self._shared_memory.streams,
            shared_memory_bytes=self._shared_memory.shared_bytes,
        )

    def publish(self, meter: Meter) -> None:
        """Registers observable instruments named `neuroscope.<field of GetWorkloadResponse>`."""
        for name, unit in _GAUGES.items():
            meter.create_observable_gauge(f"neuroscope.{name}", [self._callback(name)], unit)
        for name, unit in _COUNTERS.items():
            meter.create_observable_counter(f"neuroscope.{name}", [self._callback(name)], unit)
        waits = meter.create_histogram(
            "neuroscope.queue_wait", "s", "From a stream's arrival at the engine to its first piece of work."
        )
        self._engine.counters.observe_wait = waits.record

    def _callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(getattr(self.snapshot(), name))]
