"""AnalysisService.CompareAttention, MeasureComposition and MapInteractions: heads beside each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import attention_comparison_pb2, composition_pb2, interaction_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.comparison import analysis as comparison
from neuroscope_analysis.composition import analysis as composition
from neuroscope_analysis.interactions import request as interactions
from neuroscope_analysis.interactions.analysis import InteractionMap
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.upstream import Upstream


class HeadsServicer:
    """Describes what heads have to do with each other, and with another prompt."""

    def __init__(self, upstream: Upstream, settings: AnalysisSettings) -> None:
        self._upstream = upstream
        self._settings = settings

    async def CompareAttention(
        self, request: attention_comparison_pb2.CompareAttentionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, divergences, statistics and result."""
        model = await self._upstream.model(request.model_id, context)
        work = await comparison.checked(request, model)
        found = comparison.AttentionComparison(work, self._settings.chunk_budget_bytes)
        async with aclosing(found.events()) as events:
            async for event in events:
                yield event

    async def MeasureComposition(
        self, request: composition_pb2.MeasureCompositionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, scores and result."""
        model = await self._upstream.model(request.model_id, context)
        work = await composition.checked(request, model, self._settings)
        async with aclosing(composition.CompositionMeasurement(work).events()) as events:
            async for event in events:
                yield event

    async def MapInteractions(
        self, request: interaction_pb2.MapInteractionsRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, interactions, effects and result."""
        model = await self._upstream.model(request.model_id, context)
        work = await interactions.checked(request, model, self._settings)
        async with aclosing(InteractionMap(work).events()) as events:
            async for event in events:
                yield event
