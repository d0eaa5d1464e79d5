"""The asynchronous client; its methods are those of `neuroscope.client.Client`.

    async with AsyncClient() as client:
        async for token in client.generate("The capital of France is", hooks=["resid_post"], max_tokens=8):
            print(token.text, end="")

`neuroscope.calls.inference` defines the methods of both clients; `neuroscope.base_client` runs them.
"""

from __future__ import annotations

from opentelemetry import trace

from neuroscope.activations.stream import StreamState
from neuroscope.base_client.call import Call
from neuroscope.base_client.client import AsyncBaseClient
from neuroscope.base_client.retry import GenerationRetry
from neuroscope.calls.dictionaries import AsyncDictionaries
from neuroscope.calls.inference import InferenceCalls
from neuroscope.calls.running_generation import AsyncGeneration
from neuroscope.tracing import telemetry


class AsyncClient(InferenceCalls, AsyncBaseClient):
    """Calls an inference service, on one event loop. It has the methods of `Client` as coroutines."""

    @property
    def dictionaries(self) -> AsyncDictionaries:
        """Sparse autoencoders and transcoders of the loaded models; see `neuroscope.dictionaries`."""
        return AsyncDictionaries(self._unary, self._follow, self.attribute)

    def _generation(
        self, call: Call[None], state: StreamState, *, auto_advance: bool, resumption: GenerationRetry | None
    ) -> AsyncGeneration:
        """Starts a generation."""
        span = telemetry.tracer().start_span(f"neuroscope.{call.name}")
        with trace.use_span(span):
            events = self._transport.stream(call.rpc, call.request)
        return AsyncGeneration(
            events,
            state,
            span,
            self.advance,
            self.steer,
            auto_advance=auto_advance,
            resumption=resumption,
            open_stream=lambda again: self._transport.stream(again.rpc, again.request),
        )
