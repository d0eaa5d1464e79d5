"""AnalysisService.AnalyzeResidualStream and TrainTunedLens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.v1 import tuned_lens_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.residual.analysis import ResidualAnalysis
from neuroscope_analysis.residual.request import validate
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.tuned_lens import request as training_request
from neuroscope_analysis.tuned_lens.training import TunedLensTraining


class ResidualServicer:
    """Describes residual streams, and trains what looks through them."""

    def __init__(self, inference: InferenceClient, settings: AnalysisSettings) -> None:
        self._inference = inference
        self._settings = settings

    async def AnalyzeResidualStream(
        self, request: pb.AnalyzeResidualStreamRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, progress, what is found and the result."""
        model = await self._inference.model(request.model_id, context)
        job = await validate(request, model, self._settings)
        async with aclosing(ResidualAnalysis(job, self._settings.chunk_budget_bytes).events()) as events:
            async for event in events:
                yield event

    async def TrainTunedLens(
        self, request: tuned_lens_pb2.TrainTunedLensRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Checks the whole request, then streams plan, progress, translators and the result."""
        model = await self._inference.model(request.model_id, context)
        job = await training_request.validate(request, model, self._settings)
        async with aclosing(TunedLensTraining(job, self._settings.chunk_budget_bytes).events()) as events:
            async for event in events:
                yield event
