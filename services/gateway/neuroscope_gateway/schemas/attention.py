"""Analyses as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.analysis import AttentionResult
from neuroscope.analysis.attention_request import attention_request
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
    """A pair with two names: the answer stands once in the clean prompt, the other name twice or more often."""

    answer_position: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    """Where the answer stands; absent: its only occurrence."""
    repeated_position: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    """Where the other name stands again; absent: its last occurrence of several."""


class AttentionRequest(AnalysisRequest):
    """An analysis of attention heads."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    prompts: list[Prompt] = Field([], max_length=256)
    """Prompts whose patterns are described: texts or lists of token ids; absent: roles alone are scored."""
    layers: Layers = None
    """Layers, negative ones from the end; absent: all that have attention patterns."""
    roles: list[Role] | None = None
    """Roles that are scored; absent: all; an empty list: none."""
    thresholds: dict[Role, Annotated[float, Field(gt=0, le=1)]] = Field({})
    """Scores from which a head gets a label, in place of the defaults."""
    seed: Annotated[int, Field(ge=0, le=MAX_UINT32)] = 0
    """Of the random sequences that roles are scored and tested on."""
    sequences: Annotated[int, Field(ge=0, le=256)] = 0
    """How many; 0: 16."""
    block_length: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tokens of a block, which comes twice in a sequence; 0: 24, or what the model allows."""
    token_ids: list[TokenId] = Field([], max_length=65536)
    """Tokens that sequences are drawn from; absent: the vocabulary without special tokens."""
    test: bool = True
    """Whether labels are tested by ablation."""
    least_effect_nats: Annotated[float, Field(ge=0)] = 0.0
    """Least change of a role's metric that counts; 0: 0.01."""
    significance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance of taking noise for an effect, over all tests of a role; 0: 0.01."""
    named_pairs: list[NamedPair] = Field([], max_length=256)
    """Pairs with two names that name movers and S-inhibition heads are scored and tested on; absent: they are not."""

    def to_result(self) -> AttentionResult:
        """The empty result of the request as the SDK writes it."""
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
                named_pairs=[pair.model_dump() for pair in self.named_pairs],
                model_id=self.model or "",
                bos=None,
            )
        )


class CausalEvidence(BaseModel):
    """One causal test of a label; effects are changes of the role's metric, in nats."""

    probe: Literal["ablated", "restored", "patched"]
    """The head alone was taken out, all heads of the label but it, or what it writes for certain readers."""
    effect_nats: float
    standard_error_nats: float
    bound_nats: float
    """What the effect had to exceed."""
    bound: str
    """What that is."""
    is_passed: bool


class HeadLabel(BaseModel):
    """A role that a head's pattern has."""

    layer: int
    head: int
    role: str
    score: float
    threshold: float
    verdict: Literal["confirmed", "unconfirmed", "not tested"]
    evidence: list[CausalEvidence]
    reason: str
    """Why there is no evidence; empty where there is."""
    offset: int | None
    """Of a positional head, the distance to what it attends to."""


class RoleDefinition(BaseModel):
    """How a role is scored and tested."""

    role: str
    threshold: float
    definition: str
    causal_test: str


class AttentionAnalysis(BaseModel):
    """What an analysis of attention found."""

    object: Literal["attention_analysis"] = "attention_analysis"
    model: str
    arrays: list[NamedArray]
    """Statistics of the prompts, then a score for each role."""
    roles: list[RoleDefinition]
    labels: list[HeadLabel]
    token_count: int
    elapsed_seconds: float
