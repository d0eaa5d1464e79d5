"""All that is asked of an inference service, by either client."""

from __future__ import annotations

from neuroscope.calls.captures import CaptureCalls
from neuroscope.calls.datasets import DatasetCalls
from neuroscope.calls.experiments import ExperimentCalls
from neuroscope.calls.generations import GenerationCalls
from neuroscope.calls.hooks import HookCalls
from neuroscope.calls.models import ModelCalls
from neuroscope.calls.service import ServiceCalls
from neuroscope.calls.stored_captures import StoredCaptureCalls
from neuroscope.calls.weights import WeightCalls


class InferenceCalls(
    ModelCalls,
    HookCalls,
    GenerationCalls,
    CaptureCalls,
    StoredCaptureCalls,
    ExperimentCalls,
    WeightCalls,
    DatasetCalls,
    ServiceCalls,
):
    """Every method of both clients."""
