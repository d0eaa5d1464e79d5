"""The analysis service without a transport: dispatches and traces every call of the contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from google.protobuf.message import Message

from neuroscope.aio import AsyncClient
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import Rpc
from neuroscope.wire.transport import AsyncGrpcTransport
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.servicers.analyses import AnalysesServicer
from neuroscope_analysis.servicers.tokens import TokensServicer
from neuroscope_analysis.servicers.traces import TelemetryServicer
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_serving.admission import Admission
from neuroscope_serving.spans import Metadata, server_span

IN_PROCESS_CLIENT = "in process"
"""The client name of in-process callers."""


class AnalysisService:
    """Handles calls; errors are those of `neuroscope.errors`.

    Args:
        settings: settings of the service.
        client: client of the inference service; None: made from the settings. It is closed with the service.

    Raises:
        neuroscope.errors.InvalidRequestError: the settings of the inference service are inconsistent.
    """

    def __init__(self, settings: AnalysisSettings, client: AsyncClient | None = None) -> None:
        self._client = client or AsyncClient(transport=AsyncGrpcTransport(settings.inference_endpoint()))
        self._admission = Admission(settings.max_streams_per_client, settings.max_streams)
        target = settings.inference if client is None else "this process"
        inference = InferenceClient(self._client, target, settings.chunk_budget_bytes)
        self._analyses = AnalysesServicer(inference, settings)
        tokens, telemetry = TokensServicer(inference), TelemetryServicer(self._admission)
        self._unary: dict[str, Callable[..., Awaitable[Message]]] = {
            "TokenizePrompts": tokens.TokenizePrompts,
            "GetTrace": telemetry.GetTrace,
            "GetWorkload": telemetry.GetWorkload,
        }

    async def prepare(self) -> None:
        """Does nothing: calls connect to the inference service when they need it."""

    async def unary(self, rpc: Rpc, request: Event | AsyncIterator[Event], metadata: Metadata) -> Message:
        """Handles a unary call."""
        with server_span(rpc, metadata) as context:
            return await self._unary[rpc.method](request, context)

    async def stream(
        self, rpc: Rpc, request: Event, metadata: Metadata, client: str = IN_PROCESS_CLIENT
    ) -> AsyncGenerator[Event, None]:
        """Handles a streaming call; the number of streams of a client is limited."""
        with server_span(rpc, metadata) as context, self._admission.admit(client):
            async with aclosing(self._analyses.stream(rpc.method, request, context)) as events:
                async for event in events:
                    yield event

    async def close(self) -> None:
        """Closes the client of the inference service."""
        await self._client.close()
