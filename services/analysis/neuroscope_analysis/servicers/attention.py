"""AnalysisService.AnalyzeAttention."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import attention_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.attention.analysis import AttentionAnalysis
from neuroscope_analysis.attention.request import checked
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.upstream import Upstream


class AttentionServicer:
    """Describes attention heads."""

    def __init__(self, upstream: Upstream, settings: AnalysisSettings) -> None:
        self._upstream = upstream
        self._settings = settings

    async def AnalyzeAttention(
        self, request: pb.AnalyzeAttentionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, statistics, scores, labels and result."""
        model = await self._upstream.model(request.model_id, context)
        work = await checked(request, model, self._settings)
        async with aclosing(AttentionAnalysis(work, self._settings.chunk_budget_bytes).events()) as events:
            async for event in events:
                yield event
