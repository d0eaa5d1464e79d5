"""AnalysisService.DiscoverCircuit and EvaluateCircuit."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.circuits.discovery import CircuitDiscovery, CircuitEvaluation
from neuroscope_analysis.circuits.request import validate_discovery, validate_evaluation
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.settings import AnalysisSettings


class CircuitServicer:
    """Finds and evaluates circuits."""

    def __init__(self, inference: InferenceClient, settings: AnalysisSettings) -> None:
        self._inference = inference
        self._settings = settings

    async def DiscoverCircuit(
        self, request: pb.DiscoverCircuitRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, what is found, scores and result."""
        model = await self._inference.model(request.model_id, context)
        job = await validate_discovery(request, model, self._settings)
        async with aclosing(CircuitDiscovery(job).events()) as events:
            async for event in events:
                yield event

    async def EvaluateCircuit(
        self, request: pb.EvaluateCircuitRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, what is measured and result."""
        model = await self._inference.model(request.model_id, context)
        asked, options = await validate_evaluation(request, model, self._settings)
        async with aclosing(CircuitEvaluation(asked, options, request.circuit).events()) as events:
            async for event in events:
                yield event
