"""AnalysisService.AnalyzeAttention."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import attention_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_analysis.attention.analysis import AttentionAnalysis
from neuroscope_analysis.attention.request import validate
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.settings import AnalysisSettings


class AttentionServicer:
    """Describes attention heads."""

    def __init__(self, inference: InferenceClient, settings: AnalysisSettings) -> None:
        self._inference = inference
        self._settings = settings

    async def AnalyzeAttention(
        self, request: pb.AnalyzeAttentionRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, statistics, scores, labels and result."""
        model = await self._inference.model(request.model_id, context)
        job = await validate(request, model, self._settings)
        async with aclosing(AttentionAnalysis(job, self._settings.chunk_budget_bytes).events()) as events:
            async for event in events:
                yield event
