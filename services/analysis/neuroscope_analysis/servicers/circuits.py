"""AnalysisService.DiscoverCircuit and EvaluateCircuit."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.circuits.discovery import CircuitDiscovery, CircuitEvaluating
from neuroscope_analysis.circuits.request import discovery, evaluation
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.upstream import Upstream


class CircuitServicer:
    """Finds and evaluates circuits."""

    def __init__(self, upstream: Upstream, settings: AnalysisSettings) -> None:
        self._upstream = upstream
        self._settings = settings

    async def DiscoverCircuit(
        self, request: pb.DiscoverCircuitRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, what is found, scores and result."""
        model = await self._upstream.model(request.model_id, context)
        work = await discovery(request, model, self._settings)
        async with aclosing(CircuitDiscovery(work).events()) as events:
            async for event in events:
                yield event

    async def EvaluateCircuit(
        self, request: pb.EvaluateCircuitRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, what is measured and result."""
        model = await self._upstream.model(request.model_id, context)
        asked, options = await evaluation(request, model, self._settings)
        async with aclosing(CircuitEvaluating(asked, options, request.circuit).events()) as events:
            async for event in events:
                yield event
