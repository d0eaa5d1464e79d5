"""Analyses: what activations say about how a model works, computed by the analysis service.

    from neuroscope.analysis import AnalysisClient

    with AnalysisClient() as client:
        found = client.analyze_attention(["The capital of France is"], progress=True)
        found.heads("induction")                    layer and head of those that ablation confirms
        found["entropy"].sel(layer=3)
        found.plot("heads.png")
        found = client.analyze_residual_stream("The capital of France is", answer=" Paris", other=" Rome")
        found["direct"].top(5)                      what adds most to the difference of both logits
        found = client.discover_circuit("ioi", size=0.1, curve=True)
        found.circuit.save("ioi.html")

The same over an event loop is `AsyncAnalysisClient`; `AnalysisClient.local(folder)` needs no service.
"""

from neuroscope.analysis.client import DEFAULT_ANALYSIS_TARGET, AnalysisClient, AsyncAnalysisClient
from neuroscope.datasets.pairs import read_pairs
from neuroscope.results.attention import AttentionResult
from neuroscope.results.comparison import AttentionComparison
from neuroscope.results.composition import CompositionResult
from neuroscope.results.discovery import DiscoveryResult, EvaluationResult
from neuroscope.results.findings import AttributedNeuron, AttributedToken, LensReading, LogitAttribution, SumError
from neuroscope.results.flow import FlowEdge, FlowWriter, InformationFlow
from neuroscope.results.interactions import Interaction, InteractionGraph
from neuroscope.results.labels import ROLES, Evidence, HeadLabel
from neuroscope.results.residual import PARTS, ResidualResult
from neuroscope.results.result import AnalysisResult
from neuroscope.results.tuned_lens import TunedLens
from neuroscope.results.tuned_training import TunedLayer, TunedLensResult

__all__ = [
    "DEFAULT_ANALYSIS_TARGET",
    "PARTS",
    "ROLES",
    "AnalysisClient",
    "AnalysisResult",
    "AsyncAnalysisClient",
    "AttentionComparison",
    "AttentionResult",
    "AttributedNeuron",
    "AttributedToken",
    "CompositionResult",
    "DiscoveryResult",
    "EvaluationResult",
    "Evidence",
    "FlowEdge",
    "FlowWriter",
    "HeadLabel",
    "InformationFlow",
    "Interaction",
    "InteractionGraph",
    "LensReading",
    "LogitAttribution",
    "ResidualResult",
    "SumError",
    "TunedLayer",
    "TunedLens",
    "TunedLensResult",
    "read_pairs",
]
