"""What the service is busy with, as numbers: for whoever asks, and for the collector that the environment names.

Everything is read when it is asked for; nobody who does not ask pays for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from neuroscope.v1 import telemetry_pb2 as pb
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.sharing import Sharing
from neuroscope_serving.admission import Admission

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
    """Reads the numbers off the engine, the admission and the memory that is shared with clients."""

    def __init__(self, engine: Engine, admission: Admission, sharing: Sharing) -> None:
        self._engine = engine
        self._admission = admission
        self._sharing = sharing

    def now(self) -> pb.GetWorkloadResponse:
        """All of them."""
        counters, registry = self._engine.counters, self._engine.registry
        return pb.GetWorkloadResponse(
            streams=self._admission.running,
            decoding_rows=self._engine.decoding_rows,
            generated_tokens=counters.generated_tokens,
            captured_bytes=counters.captured_bytes,
            queue_wait_ms=1e3 * counters.queue_wait_s,
            weights_bytes=registry.held_bytes,
            weights_budget_bytes=registry.budget_bytes,
            active_memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            shared_memory_streams=self._sharing.streams,
            shared_memory_bytes=self._sharing.shared_bytes,
        )

    def publish(self, meter: Meter) -> None:
        """Makes a meter read them whenever it sends: `neuroscope.streams` and so on, by the names of the contract."""
        for name, unit in _GAUGES.items():
            meter.create_observable_gauge(f"neuroscope.{name}", [self._reading(name)], unit)
        for name, unit in _COUNTERS.items():
            meter.create_observable_counter(f"neuroscope.{name}", [self._reading(name)], unit)
        waits = meter.create_histogram(
            "neuroscope.queue_wait", "s", "From a stream's arrival at the engine to its first piece of work."
        )
        self._engine.counters.observe_wait = waits.record

    def _reading(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(getattr(self.now(), name))]
