"""Analyses: what activations say about how a model works, computed by the analysis service.

    from neuroscope.analysis import AnalysisClient

    with AnalysisClient() as client:
        found = client.analyze_attention(["The capital of France is"], progress=True)
        found.heads("induction")                    layer and head of those that ablation confirms
        found["entropy"].sel(layer=3)
        found.plot("heads.png")
        found = client.discover_circuit("ioi", size=0.1, curve=True)
        found.circuit.save("ioi.html")

The same over an event loop is `AsyncAnalysisClient`; `AnalysisClient.local(model=[folder])` needs no service.
"""

from neuroscope.analysis.attention import AttentionResult
from neuroscope.analysis.attention_request import ROLES
from neuroscope.analysis.circuits import DiscoveryResult, EvaluationResult
from neuroscope.analysis.client import DEFAULT_ANALYSIS_TARGET, AnalysisClient, AsyncAnalysisClient
from neuroscope.analysis.labels import Evidence, HeadLabel
from neuroscope.analysis.result import AnalysisResult

__all__ = [
    "DEFAULT_ANALYSIS_TARGET",
    "ROLES",
    "AnalysisClient",
    "AnalysisResult",
    "AsyncAnalysisClient",
    "AttentionResult",
    "DiscoveryResult",
    "EvaluationResult",
    "Evidence",
    "HeadLabel",
]
