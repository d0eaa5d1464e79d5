"""The streaming calls of AnalysisService: each validates its request, then runs its analysis."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from opentelemetry.context import Context

from neuroscope.wire.codec import Event
from neuroscope_analysis.attention import request as attention
from neuroscope_analysis.attention.analysis import AttentionAnalysis
from neuroscope_analysis.circuits.discovery import CircuitDiscovery
from neuroscope_analysis.circuits.evaluation import CircuitEvaluation
from neuroscope_analysis.circuits.request import validate_discovery, validate_evaluation
from neuroscope_analysis.comparison import request as comparison
from neuroscope_analysis.comparison.analysis import AttentionComparison
from neuroscope_analysis.composition import request as composition
from neuroscope_analysis.composition.analysis import CompositionMeasurement
from neuroscope_analysis.inference_client import InferenceClient
from neuroscope_analysis.interactions import request as interactions
from neuroscope_analysis.interactions.analysis import InteractionMap
from neuroscope_analysis.residual import request as residual
from neuroscope_analysis.residual.analysis import ResidualAnalysis
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_analysis.tuned_lens import request as tuned_lens
from neuroscope_analysis.tuned_lens.training import TunedLensTraining


class Analysis(Protocol):
    """The run of an analysis."""

    def events(self) -> AsyncGenerator[Event, None]:
        """The plan, progress and partial results, then the result."""
        ...


class AnalysisCall(NamedTuple):
    """One call of the contract."""

    validate: Callable[..., Awaitable[Any]]
    """Checks the request against its model and returns a job."""
    analysis: Callable[[Any], Analysis]
    """Makes the run of a job."""


CALLS: Mapping[str, AnalysisCall] = {
    "AnalyzeAttention": AnalysisCall(attention.validate, AttentionAnalysis),
    "CompareAttention": AnalysisCall(comparison.validate, AttentionComparison),
    "MeasureComposition": AnalysisCall(composition.validate, CompositionMeasurement),
    "MapInteractions": AnalysisCall(interactions.validate, InteractionMap),
    "AnalyzeResidualStream": AnalysisCall(residual.validate, ResidualAnalysis),
    "TrainTunedLens": AnalysisCall(tuned_lens.validate, TunedLensTraining),
    "DiscoverCircuit": AnalysisCall(validate_discovery, CircuitDiscovery),
    "EvaluateCircuit": AnalysisCall(validate_evaluation, CircuitEvaluation),
}


class AnalysesServicer:
    """Runs analyses."""

    def __init__(self, inference: InferenceClient, settings: AnalysisSettings) -> None:
        self._inference = inference
        self._settings = settings

    async def stream(self, method: str, request: Any, context: Context) -> AsyncGenerator[Event, None]:
        """Validates the whole request, then streams the events of its analysis."""
        call = CALLS[method]
        model = await self._inference.model(request.model_id, context)
        job = await call.validate(request, model, self._settings)
        async with aclosing(call.analysis(job).events()) as events:
            async for event in events:
                yield event
