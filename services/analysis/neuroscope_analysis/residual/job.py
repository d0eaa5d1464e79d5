"""The validated request of an analysis of the residual stream, and the parts of such analyses."""

from __future__ import annotations

from dataclasses import dataclass, field

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.attribution import LogitTarget
from neuroscope_analysis.residual.components import Components
from neuroscope_analysis.residual.flow import FlowLimits
from neuroscope_analysis.residual.translators import Translators

Part = pb.ResidualPart.ValueType
CONTRIBUTIONS, ATTRIBUTION, LENS = (
    pb.RESIDUAL_PART_CONTRIBUTIONS,
    pb.RESIDUAL_PART_ATTRIBUTION,
    pb.RESIDUAL_PART_LENS,
)
ROUTING, ABLATION, FLOW = pb.RESIDUAL_PART_ROUTING, pb.RESIDUAL_PART_ABLATION, pb.RESIDUAL_PART_FLOW


@dataclass(slots=True)
class ResidualJob:
    """A validated request."""

    model: RemoteModel
    request: pb.AnalyzeResidualStreamRequest
    parts: list[Part]
    prompts: list[Tokens]
    components: Components
    positions: list[int]
    """The position that predicts the answer, for each prompt."""
    answers: list[int | None]
    """The answer of each prompt; None: the model's prediction."""
    others: list[int | None]
    top_k: int
    neurons: list[tuple[int, int]]
    """Named neurons."""
    neuron_layers: list[int]
    """Layers whose neurons are attributed."""
    queries: list[list[int]]
    """Query positions of routing, for each prompt."""
    corrupted: list[Tokens]
    limits: FlowLimits
    translators: Translators | None
    has_heads: bool
    warnings: list[str] = field(default_factory=list[str])

    def needs_model_answer(self, prompt: int) -> bool:
        """Whether the answer is the model's own prediction."""
        return self.answers[prompt] is None and bool(set(self.parts) - {CONTRIBUTIONS, ROUTING})

    def target(self, prompt: int, likeliest: int | None) -> LogitTarget:
        """The target of a prompt.

        Args:
            prompt: index of the prompt.
            likeliest: the model's prediction, if it is needed.
        """
        answer = self.answers[prompt]
        return LogitTarget(self.positions[prompt], (likeliest or 0) if answer is None else answer, self.others[prompt])

    @property
    def position(self) -> int:
        """The position of the request."""
        return self.request.position if self.request.HasField("position") else -1
