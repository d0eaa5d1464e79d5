"""Analyses of attention heads: request and response."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.analysis import AttentionResult
from neuroscope.analysis.attention_requests import attention_request
from neuroscope.vocabulary.strict_model import Text
from neuroscope_gateway.schemas.analysis_request import MAX_UINT32, AnalysisRequest, AnsweredPair, Layers
from neuroscope_gateway.schemas.arrays import NamedArray
from neuroscope_gateway.schemas.prompts import Prompt, TokenId

Role = Literal[
    "previous_token",
    "duplicate_token",
    "induction",
    "first_token_sink",
    "positional",
    "uniform",
    "copying",
    "suppression",
    "name_mover",
    "s_inhibition",
]


class NamedPair(AnsweredPair):
    """A pair with two names: the answer occurs once in the clean prompt, the other name at least twice."""

    answer_position: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    """Position of the answer in the clean prompt; default: its only occurrence."""
    repeated_position: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    """Position of the repeated name; default: its last occurrence."""


class AttentionRequest(AnalysisRequest):
    """An analysis of attention heads."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    prompts: list[Prompt] = Field([], max_length=256)
    """Prompts whose patterns are described: texts or lists of token ids. Without prompts only roles are scored."""
    layers: Layers = None
    """Layer indices, negative from the end; default: all layers with attention patterns."""
    roles: list[Role] | None = None
    """Roles to score; default: all; an empty list: none."""
    thresholds: dict[Role, Annotated[float, Field(gt=0, le=1)]] = Field({})
    """Minimum score of a label, for roles whose default does not fit."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Seed of the random sequences that score and test roles."""
    sequences: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of random sequences; 0: 16."""
    block_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Length of the block that each sequence repeats, in tokens; 0: 24, or the longest that fits the context."""
    token_ids: list[TokenId] = Field([], max_length=65536)
    """Tokens to draw sequences from; default: the vocabulary without special tokens."""
    test: bool = True
    """Tests labels by ablation."""
    least_effect_nats: Annotated[float, Field(ge=0)] = 0.0
    """Minimum change of a role's metric that counts as an effect; 0: 0.01."""
    significance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Significance level over all tests of a role; 0: 0.01."""
    complete: bool = False
    """Tests every label in every way on every sequence, instead of ending a test once its result is clear."""
    named_pairs: list[NamedPair] = Field([], max_length=256)
    """Pairs that score and test name movers and S-inhibition heads."""

    def to_result(self) -> AttentionResult:
        """The SDK's empty result of this request."""
        return AttentionResult(
            attention_request(
                [*self.prompts] or None,
                layers=self.layers,
                roles=self.roles,
                thresholds={**self.thresholds},
                seed=self.seed,
                sequences=self.sequences,
                block_length=self.block_length,
                token_ids=self.token_ids,
                test=self.test,
                least_effect_nats=self.least_effect_nats,
                significance=self.significance,
                complete=self.complete,
                named_pairs=[pair.model_dump() for pair in self.named_pairs],
                model_id=self.model or "",
                bos=None,
            )
        )


class CausalEvidence(BaseModel):
    """One causal test of a label. Effects are changes of the role's metric, in nats."""

    probe: Literal["ablated", "restored", "patched"]
    """ablated: the head alone; restored: all heads with the label except this one; patched: its path to certain
    readers."""
    effect_nats: float
    standard_error_nats: float
    bound_nats: float
    """The threshold of the effect."""
    bound: str
    """What sets the threshold."""
    is_passed: bool
    sequence_count: int
    """Sequences or pairs that it was measured on."""


class NullComparison(BaseModel):
    """A second measure of a role beside what chance gives of it."""

    statistic: str
    value: float
    null_value: float
    threshold: float


class HeadLabel(BaseModel):
    """A head with the pattern of a role."""

    layer: int
    head: int
    role: str
    score: float
    threshold: float
    verdict: Literal["confirmed", "unconfirmed", "not tested"]
    evidence: list[CausalEvidence]
    reason: str
    """Why the label was not tested; otherwise empty."""
    offset: int | None
    """The distance at which a positional head attends."""
    null_comparison: NullComparison | None
    """Of copying and suppression: the share of tokens for which the head does so, beside chance."""


class RoleDefinition(BaseModel):
    """How a role is scored and tested."""

    role: str
    threshold: float
    definition: str
    causal_test: str


class AttentionAnalysis(BaseModel):
    """The result of an analysis of attention heads."""

    object: Literal["attention_analysis"] = "attention_analysis"
    model: str
    arrays: list[NamedArray]
    """Statistics of the prompts, then scores of roles."""
    roles: list[RoleDefinition]
    labels: list[HeadLabel]
    token_count: int
    elapsed_seconds: float
