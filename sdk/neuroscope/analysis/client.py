"""The clients of the analysis service. Their methods are in the `*_calls` modules."""

from __future__ import annotations

from neuroscope.analysis.attention_calls import AttentionCalls
from neuroscope.analysis.base_client import DEFAULT_ANALYSIS_TARGET, AsyncBaseAnalysisClient, BaseAnalysisClient
from neuroscope.analysis.circuit_calls import CircuitCalls
from neuroscope.analysis.head_calls import HeadCalls
from neuroscope.analysis.residual_calls import ResidualCalls

__all__ = ["DEFAULT_ANALYSIS_TARGET", "AnalysisClient", "AsyncAnalysisClient"]


class AnalysisClient(CircuitCalls, HeadCalls, AttentionCalls, ResidualCalls, BaseAnalysisClient):
    """Calls an analysis service. Thread-safe.

    Args:
        target: `host:port`, `unix:path`, or `local` for engine and analyses in this process.
        options: options of `neuroscope.Client`: transport, timeout_s, tls, token.

    Every method raises errors of `neuroscope.errors`; NeuroScopeIntegrationError if the service, or the
    inference service behind it, does not answer.
    """


class AsyncAnalysisClient(CircuitCalls, HeadCalls, AttentionCalls, ResidualCalls, AsyncBaseAnalysisClient):
    """Calls an analysis service, on one event loop. It has the methods of `AnalysisClient` as coroutines."""
