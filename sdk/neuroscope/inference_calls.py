"""All that is asked of an inference service, by either client."""

from __future__ import annotations

from neuroscope.capture_calls import CaptureCalls
from neuroscope.datasets.calls import DatasetCalls
from neuroscope.experiments.calls import ExperimentCalls
from neuroscope.generation_calls import GenerationCalls
from neuroscope.hook_calls import HookCalls
from neuroscope.kept_calls import KeptCalls
from neuroscope.model_calls import ModelCalls
from neuroscope.service_calls import ServiceCalls
from neuroscope.weights.calls import WeightCalls


class InferenceCalls(
    ModelCalls,
    HookCalls,
    GenerationCalls,
    CaptureCalls,
    KeptCalls,
    ExperimentCalls,
    WeightCalls,
    DatasetCalls,
    ServiceCalls,
):
    """Every method of both clients."""
