"""The synchronous client, for scripts and notebooks. `neuroscope.aio` has the asynchronous one.

    with Client() as client:
        client.load_model("models/neuroscope-tiny")
        cache = client.capture("The capital of France is", ["resid_post", "attention_pattern.3"])
        cache["resid_post", 5]

`neuroscope.calls.inference` defines the methods of both clients; `neuroscope.base_client` runs them.
"""

from __future__ import annotations

from opentelemetry import trace

from neuroscope.activations.stream import StreamState
from neuroscope.base_client.call import Call
from neuroscope.base_client.client import BaseClient
from neuroscope.base_client.retry import GenerationRetry
from neuroscope.calls.dictionaries import Dictionaries
from neuroscope.calls.inference import InferenceCalls
from neuroscope.calls.running_generation import Generation
from neuroscope.tracing import telemetry
from neuroscope.wire.endpoint import DEFAULT_TARGET

__all__ = ["DEFAULT_TARGET", "Client"]


class Client(InferenceCalls, BaseClient):
    """Calls an inference service. Thread-safe; use one client for the life of a program.

    Args:
        target: `host:port`, `unix:path`, or `local` for the engine in this process.
        transport: replaces the target's transport, for tests and other protocols.
        timeout_s: deadline of unary calls; None: none.
        tls: encrypts the connection; True: with gRPC's default certificate authorities.
        token: the service's token. Without TLS it is sent to this host only.
        retry: retries of idempotent calls; None: the defaults of `Retry`.
        shared_memory: receives large tensors through shared memory if the service is on this host.

    Every method raises errors of `neuroscope.errors`; NeuroScopeIntegrationError if no service answers.
    """

    @property
    def dictionaries(self) -> Dictionaries:
        """Sparse autoencoders and transcoders of the loaded models; see `neuroscope.dictionaries`."""
        return Dictionaries(self._unary, self._follow, self.attribute)

    def _generation(
        self, call: Call[None], state: StreamState, *, auto_advance: bool, resumption: GenerationRetry | None
    ) -> Generation:
        """Starts a generation."""
        span = telemetry.tracer().start_span(f"neuroscope.{call.name}")
        with trace.use_span(span):
            events = self._transport.stream(call.rpc, call.request)
        return Generation(
            events,
            state,
            span,
            self.advance,
            self.steer,
            auto_advance=auto_advance,
            resumption=resumption,
            open_stream=lambda again: self._transport.stream(again.rpc, again.request),
        )
