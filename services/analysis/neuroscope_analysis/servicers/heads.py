"""AnalysisService.CompareAttention, MeasureComposition and MapInteractions: heads beside each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import attention_comparison_pb2, composition_pb2, interaction_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.comparison import analysis as comparison
from neuroscope_analysis.composition import analysis as composition
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.interactions import request as interactions
from neuroscope_analysis.interactions.analysis import InteractionMap
from neuroscope_analysis.settings import AnalysisSettings


class HeadsServicer:
    """Describes what heads have to do with each other, and with another prompt."""

    def __init__(self, inference: InferenceClient, settings: AnalysisSettings) -> None:
        self._inference = inference
        self._settings = settings

    async def CompareAttention(
        self, request: attention_comparison_pb2.CompareAttentionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, divergences, statistics and result."""
        model = await self._inference.model(request.model_id, context)
        job = await comparison.validate(request, model)
        found = comparison.AttentionComparison(job, self._settings.chunk_budget_bytes)
        async with aclosing(found.events()) as events:
            async for event in events:
                yield event

    async def MeasureComposition(
        self, request: composition_pb2.MeasureCompositionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, scores and result."""
        model = await self._inference.model(request.model_id, context)
        job = await composition.validate(request, model, self._settings)
        async with aclosing(composition.CompositionMeasurement(job).events()) as events:
            async for event in events:
                yield event

    async def MapInteractions(
        self, request: interaction_pb2.MapInteractionsRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, interactions, effects and result."""
        model = await self._inference.model(request.model_id, context)
        job = await interactions.validate(request, model, self._settings)
        async with aclosing(InteractionMap(job).events()) as events:
            async for event in events:
                yield event
