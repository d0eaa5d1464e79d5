"""All that is asked of an inference service, by either client."""

from __future__ import annotations

from neuroscope.calls.captures import CaptureCalls
from neuroscope.calls.generations import GenerationCalls
from neuroscope.calls.hooks import HookCalls
from neuroscope.calls.kept import KeptCalls
from neuroscope.calls.models import ModelCalls
from neuroscope.calls.service import ServiceCalls
from neuroscope.datasets.calls import DatasetCalls
from neuroscope.experiments.calls import ExperimentCalls
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
