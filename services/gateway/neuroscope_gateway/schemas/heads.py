"""Comparison of heads: attention on two prompts, composition, interactions: requests and responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.analysis import AttentionComparison, CompositionResult, InteractionGraph
from neuroscope.analysis.head_requests import comparison_request, composition_request, interactions_request
from neuroscope.vocabulary.strict_model import Text
from neuroscope_gateway.schemas.analysis_request import MAX_UINT32, AnalysisRequest, AnsweredPair, Layers
from neuroscope_gateway.schemas.arrays import NamedArray
from neuroscope_gateway.schemas.prompts import Prompt, TokenId


class ComparisonRequest(AnalysisRequest):
    """A comparison of attention patterns on two prompts."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    first: Prompt
    """The first prompt: a text or a list of token ids."""
    second: Prompt
    """The second prompt."""
    layers: Layers = None
    """Layer indices, negative from the end; default: all layers with attention patterns."""
    alignment: Literal["auto", "positions", "tokens"] = "auto"
    """How positions are aligned: `positions` (one by one) or `tokens` (common tokens in the same order); `auto`:
    positions if the prompts have the same length."""

    def to_result(self) -> AttentionComparison:
        """The SDK's empty result of this request."""
        return AttentionComparison(
            comparison_request(
                self.first,
                self.second,
                layers=self.layers,
                alignment=self.alignment,
                model_id=self.model or "",
                bos=None,
            )
        )


class CompositionRequest(AnalysisRequest):
    """A measurement of composition scores."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    layers: Layers = None
    """Layer indices, at least two, negative from the end; default: all layers with the weights."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Seed of the random baseline."""
    random_pairs: Annotated[int, Field(ge=0, le=4096)] = 0
    """Number of random pairs in the baseline; 0: 64."""

    def to_result(self) -> CompositionResult:
        """The SDK's empty result of this request."""
        return CompositionResult(
            composition_request(
                layers=self.layers, seed=self.seed, random_pairs=self.random_pairs, model_id=self.model or ""
            )
        )


class InteractionsRequest(AnalysisRequest):
    """A search for interactions between heads."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    pairs: list[AnsweredPair] = Field([], max_length=256)
    """At least two pairs, scored by the logit difference; default: random sequences, scored by the loss of their
    second block."""
    layers: Layers = None
    """Layer indices, negative from the end; default: all."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Seed of the random sequences."""
    sequences: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of random sequences; 0: 16."""
    block_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Length of the block that each sequence repeats, in tokens; 0: 24, or the longest that fits the context."""
    token_ids: list[TokenId] = Field([], max_length=65536)
    """Tokens to draw sequences from; default: the vocabulary without special tokens."""
    least_effect: Annotated[float, Field(ge=0)] = 0.0
    """Minimum effect, in logits or nats; 0: 0.01."""
    false_discovery_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """False-discovery rate; 0: 0.01."""
    every_head: bool = False
    """Also tests heads whose whole output has no effect."""

    def to_result(self) -> InteractionGraph:
        """The SDK's empty result of this request."""
        return InteractionGraph(
            interactions_request(
                [pair.model_dump() for pair in self.pairs],
                layers=self.layers,
                seed=self.seed,
                sequences=self.sequences,
                block_length=self.block_length,
                token_ids=self.token_ids,
                least_effect=self.least_effect,
                false_discovery_rate=self.false_discovery_rate,
                every_head=self.every_head,
                model_id=self.model or "",
                bos=None,
            )
        )


class AttentionComparisonResponse(BaseModel):
    """How much each head's attention pattern differs between two prompts."""

    object: Literal["attention_comparison"] = "attention_comparison"
    model: str
    alignment: list[tuple[int, int]]
    """Aligned positions of the first and the second prompt."""
    arrays: list[NamedArray]
    """jensen_shannon (nats) and total_variation by layer and head, then statistics of both prompts."""
    elapsed_seconds: float


class CompositionBaseline(BaseModel):
    """Scores of random heads."""

    kind: Literal["q", "k", "v"]
    mean: float
    standard_deviation: float


class CompositionResponse(BaseModel):
    """Composition scores of every two heads."""

    object: Literal["composition"] = "composition"
    model: str
    arrays: list[NamedArray]
    """q_composition, k_composition and v_composition by layer and head of writer and reader."""
    baselines: list[CompositionBaseline]
    warnings: list[str]
    """What the scores do not account for on this model."""
    elapsed_seconds: float


class HeadInteraction(BaseModel):
    """The effect of one path from a head to a receiver."""

    sender: tuple[int, int]
    """Layer and head."""
    receiver: tuple[int, int] | None
    """Layer and head for q, layer and key/value head for k and v; null for the logits."""
    part: Literal["q", "k", "v", "logits"]
    effect: float
    """The metric's loss when the path is patched; negative if the metric increases."""
    standard_error: float
    p_value: float


class InteractionsResponse(BaseModel):
    """Interactions between heads."""

    object: Literal["head_interactions"] = "head_interactions"
    model: str
    metric: str
    """The metric in words."""
    interactions: list[HeadInteraction]
    """Significant interactions, strongest first."""
    arrays: list[NamedArray]
    """All tested effects; null where a path was not tested."""
    tested_count: int
    """Number of tested paths."""
    screened_count: int
    """Number of skipped heads, whose whole output has no effect."""
    elapsed_seconds: float
