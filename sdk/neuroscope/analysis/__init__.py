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

from neuroscope.analysis.attention import AttentionResult
from neuroscope.analysis.attention_request import ROLES
from neuroscope.analysis.circuits import DiscoveryResult, EvaluationResult
from neuroscope.analysis.client import DEFAULT_ANALYSIS_TARGET, AnalysisClient, AsyncAnalysisClient
from neuroscope.analysis.comparison import AttentionComparison
from neuroscope.analysis.composition import CompositionResult
from neuroscope.analysis.findings import AttributedNeuron, AttributedToken, LensReading, LogitAttribution, SumError
from neuroscope.analysis.flow import FlowEdge, FlowWriter, InformationFlow
from neuroscope.analysis.interactions import Interaction, InteractionGraph
from neuroscope.analysis.labels import Evidence, HeadLabel
from neuroscope.analysis.pairs import read_pairs
from neuroscope.analysis.residual import ResidualResult
from neuroscope.analysis.residual_request import PARTS
from neuroscope.analysis.result import AnalysisResult
from neuroscope.analysis.tuned_lens import TunedLens
from neuroscope.analysis.tuned_training import TunedLayer, TunedLensResult

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
