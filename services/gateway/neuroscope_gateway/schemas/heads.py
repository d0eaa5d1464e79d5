"""Analyses of heads beside each other as JSON: what is asked for, and what is answered."""

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
    """A comparison of two prompts."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    first: Prompt
    """One prompt: a text or a list of token ids."""
    second: Prompt
    """The other one."""
    layers: Layers = None
    """Layers, negative ones from the end; absent: all that have attention patterns."""
    alignment: Literal["auto", "positions", "tokens"] = "auto"
    """Which positions are compared: one by one, or those of tokens that both have in the same order; auto: the first
    where the prompts are equally long."""

    def to_result(self) -> AttentionComparison:
        """The empty result of the request as the SDK writes it."""
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
    """A measurement of composition."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    layers: Layers = None
    """Layers, two at least, negative ones from the end; absent: all that have such weights."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Of the random heads that scores are compared with."""
    random_pairs: Annotated[int, Field(ge=0, le=4096)] = 0
    """How many pairs of them; 0: 64."""

    def to_result(self) -> CompositionResult:
        """The empty result of the request as the SDK writes it."""
        return CompositionResult(
            composition_request(
                layers=self.layers, seed=self.seed, random_pairs=self.random_pairs, model_id=self.model or ""
            )
        )


class InteractionsRequest(AnalysisRequest):
    """A search for interactions of heads."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    pairs: list[AnsweredPair] = Field([], max_length=256)
    """Pairs of prompts, two at least, scored by the logit difference; absent: random sequences, scored by the loss of
    the second block."""
    layers: Layers = None
    """Layers, negative ones from the end; absent: all."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Of the random sequences."""
    sequences: Annotated[int, Field(ge=0, le=256)] = 0
    """How many; 0: 16."""
    block_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tokens of a block, which comes twice in a sequence; 0: 24, or what the model allows."""
    token_ids: list[TokenId] = Field([], max_length=65536)
    """Tokens that sequences are drawn from; absent: the vocabulary without special tokens."""
    least_effect: Annotated[float, Field(ge=0)] = 0.0
    """Least effect that counts, in logits or nats; 0: 0.01."""
    false_discovery_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of interactions that may be false; 0: 0.01."""
    every_head: bool = False
    """Tries heads, too, that have no effect when all that they write is replaced."""

    def to_result(self) -> InteractionGraph:
        """The empty result of the request as the SDK writes it."""
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
    """How far each head's patterns are from each other on two prompts."""

    object: Literal["attention_comparison"] = "attention_comparison"
    model: str
    alignment: list[tuple[int, int]]
    """Positions of the first prompt, each with that of the second one."""
    arrays: list[NamedArray]
    """jensen_shannon (nats) and total_variation by layer and head, then statistics of both prompts."""
    elapsed_seconds: float


class CompositionBaseline(BaseModel):
    """What random heads score."""

    kind: Literal["q", "k", "v"]
    mean: float
    standard_deviation: float


class CompositionResponse(BaseModel):
    """How much each head can read of what each earlier one writes."""

    object: Literal["composition"] = "composition"
    model: str
    arrays: list[NamedArray]
    """q_composition, k_composition and v_composition by layer and head of writer and reader."""
    baselines: list[CompositionBaseline]
    warnings: list[str]
    """What the scores leave out on this model."""
    elapsed_seconds: float


class HeadInteraction(BaseModel):
    """A head, what reads its output, and the effect of that."""

    sender: tuple[int, int]
    """Layer and head."""
    receiver: tuple[int, int] | None
    """Layer and head for q, layer and key/value head for k and v; null: the logits."""
    part: Literal["q", "k", "v", "logits"]
    effect: float
    """Part of the metric that is lost by replacing what is read; negative where the metric gains."""
    standard_error: float
    p_value: float


class InteractionsResponse(BaseModel):
    """Which heads read what other heads write."""

    object: Literal["head_interactions"] = "head_interactions"
    model: str
    metric: str
    """What is scored."""
    interactions: list[HeadInteraction]
    """Those that are more than noise, strongest first."""
    arrays: list[NamedArray]
    """Every effect that was tried; null where none was."""
    tested_count: int
    """Paths that were tried."""
    screened_count: int
    """Heads that were left out, since replacing all that they write has no effect."""
    elapsed_seconds: float
