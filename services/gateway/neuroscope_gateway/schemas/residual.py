"""Analyses of the residual stream and trainings of tuned lenses as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from neuroscope.analysis import ResidualResult, TunedLens, TunedLensResult
from neuroscope.analysis.residual_request import residual_request
from neuroscope.interventions.tensor_json import EncodedTensor
from neuroscope.results.tuned_training import training_request
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.analysis_request import AnalysisRequest
from neuroscope_gateway.schemas.arrays import NamedArray
from neuroscope_gateway.schemas.prompts import Prompt, Token
from neuroscope_gateway.schemas.sweep_axes import Index

Part = Literal["contributions", "attribution", "lens", "routing", "ablation", "flow"]
_Count = Annotated[int, Field(ge=0, le=2**32 - 1)]
_OpenFraction = Annotated[float, Field(ge=0, lt=1)]


class Translator(StrictModel):
    """The map of one point's stream to the last one's: x + x @ weight + bias."""

    point: Annotated[int, Field(ge=0, lt=2**31)]
    """0: the stream before the first layer, 1: that behind it."""
    weight: EncodedTensor
    """float32 (d_model, d_model)."""
    bias: EncodedTensor
    """float32 (d_model)."""


class TunedLensFile(StrictModel):
    """A tuned lens, as its training answers it."""

    model: Text
    """The model that it was trained on."""
    marks: dict[str, float] = Field({})
    """Norms of some of its weights, by which it is known again."""
    translators: list[Translator]
    provenance: dict[str, Any] = Field({})
    """Objective, texts, held-out divergence."""

    def to_lens(self) -> TunedLens:
        """As the SDK has it."""
        return TunedLens(
            self.model,
            self.marks,
            {each.point: each.weight.array().astype(np.float32) for each in self.translators},
            {each.point: each.bias.array().astype(np.float32) for each in self.translators},
            self.provenance,
        )

    @classmethod
    def from_lens(cls, lens: TunedLens) -> TunedLensFile:
        """As JSON."""
        return cls(
            model=lens.model_id,
            marks=dict(lens.marks),
            translators=[
                Translator(point=point, weight=_encoded(weight), bias=_encoded(lens.biases[point]))
                for point, weight in lens.weights.items()
            ],
            provenance=dict(lens.provenance),
        )


def _encoded(array: NDArray[np.float32]) -> EncodedTensor:
    return EncodedTensor(dtype="float32", shape=list(array.shape), data=b64encode(array.tobytes()).decode())


class Neuron(StrictModel):
    """A neuron of an MLP."""

    layer: Index
    neuron: Index


class ResidualRequest(AnalysisRequest):
    """An analysis of the residual stream."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=256)]
    """Texts or lists of token ids."""
    parts: Annotated[list[Part], Field(min_length=1)] | None = None
    """What is found; absent: contributions, attribution and lens, and flow where there are corrupted prompts."""
    answers: list[Token] = Field([], max_length=256)
    """Tokens that logits are attributed to, one for all prompts or one for each; absent: what the model says."""
    others: list[Token] = Field([], max_length=256)
    """What they are compared with; absent: nothing."""
    position: Index = -1
    """Where the answer is predicted, negative from the end."""
    top_k: _Count = 0
    """Likeliest tokens of lenses; 0: 5."""
    tuned_lens: TunedLensFile | None = None
    """Beside the logit lens."""
    strongest_neurons: _Count = 0
    """So many neurons whose direct effects are told."""
    neurons: list[Neuron] = Field([], max_length=65536)
    """Neurons by name, in place of the strongest."""
    queries: list[Index] = Field([], max_length=65536)
    """Positions whose routes are told; absent: all, or the answer's where that is too much."""
    by_head: bool = False
    """Routes of every head, too."""
    references: list[Prompt] = Field([], max_length=256)
    """Whose mean takes the place of what is ablated; absent: the prompts'."""
    corrupted: list[Prompt] = Field([], max_length=256)
    """For each prompt one of its length with another answer."""
    least_effect: _OpenFraction = 0.0
    """Of an edge of the flow, as a share of the difference of both runs; 0: 0.05."""
    tolerance: _OpenFraction = 0.0
    """Of what may happen to a write between, for an edge to skip layers; 0: 0.1."""
    max_writers: _Count = 0
    """Whose paths are followed; 0: 64."""

    def to_result(self) -> ResidualResult:
        """The empty result of the request as the SDK writes it."""
        named = [(each.layer, each.neuron) for each in self.neurons]
        return ResidualResult(
            residual_request(
                [*self.prompts],
                parts=self.parts,
                answer=self.answers or None,
                other=self.others or None,
                position=self.position,
                top_k=self.top_k,
                tuned_lens=None if self.tuned_lens is None else self.tuned_lens.to_lens(),
                neurons=named or self.strongest_neurons,
                queries=self.queries or None,
                by_head=self.by_head,
                references=[*self.references] or None,
                corrupted=[*self.corrupted] or None,
                least_effect=self.least_effect,
                tolerance=self.tolerance,
                max_writers=self.max_writers,
                model_id=self.model or "",
                bos=None,
            )
        )


class TokenAttribution(BaseModel):
    """A token, and what the sum of all direct contributions says of it."""

    token_id: int
    text: str
    logit: float
    """The model's."""
    sum: float
    """The logit before the softcap, where there is one."""
    constant: float
    """What of the sum no component contributes."""


class NeuronAttribution(BaseModel):
    """A neuron's direct contribution."""

    layer: int
    neuron: int
    activation: float
    logit: float


class LogitAttribution(BaseModel):
    """Direct logit attribution, the final norm frozen at what it divides by in the run."""

    position: int
    answer: TokenAttribution
    other: TokenAttribution | None
    norm_scale: float
    """What the final norm divides by."""
    logit_scale: float
    softcap: float | None
    """Logits go through it after the sum."""
    neurons: list[NeuronAttribution]


class ReconstructionError(BaseModel):
    """How far the sum of all that is written is from the stream, as a share of its norm."""

    components: float
    heads: float | None


class LensSummary(BaseModel):
    """What lenses see of the answer."""

    answer_id: int
    emergence: int | None
    """The point from which on it stays the likeliest; 0: before the first layer."""
    tuned_emergence: int | None
    texts: dict[str, str]
    """By token id, of all tokens that are among the likeliest somewhere."""


class Rewriter(BaseModel):
    """A component that changes what another wrote."""

    name: str
    share: float
    """-1 erases it."""


class FlowWriter(BaseModel):
    """A component that carries something of the difference between both prompts."""

    name: str
    effect: float
    written_norm: float
    survival: list[float]
    """What is left of its write before each layer, then at the end."""
    rewriters: list[Rewriter]


class FlowEdge(BaseModel):
    """A direct path from a writer to a reader."""

    writer: str
    reader: str
    effect: float
    """As a share of the difference between both runs."""
    layers_between: int
    read_between: float
    reader_between: str
    survival: float
    is_skip: bool


class InformationFlow(BaseModel):
    """Who reads what others wrote."""

    clean: float
    corrupted: float
    writers: list[FlowWriter]
    edges: list[FlowEdge]


class PromptAnalysis(BaseModel):
    """What was found of one prompt; parts that were not asked for are null."""

    token_ids: list[int]
    tokens: list[str]
    position: int
    """Where the answer is predicted."""
    arrays: list[NamedArray]
    error: ReconstructionError | None
    attribution: LogitAttribution | None
    lens: LensSummary | None
    metric: float | None
    """What ablation is measured by, of the run as it is."""
    flow: InformationFlow | None


class ResidualAnalysisResponse(BaseModel):
    """What an analysis of the residual stream found."""

    object: Literal["residual_analysis"] = "residual_analysis"
    model: str
    parts: list[str]
    components: list[str]
    """What writes, in order."""
    prompts: list[PromptAnalysis]
    notes: list[str]
    """What is said about the numbers."""
    warnings: list[str]
    token_count: int
    call_count: int
    elapsed_seconds: float


class TunedLensRequest(AnalysisRequest):
    """A training of a tuned lens."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    texts: Annotated[list[Prompt], Field(min_length=2, max_length=4096)]
    """What is trained on; the last of them are held out."""
    objective: Literal["auto", "ridge", "kl"] = "auto"
    """ridge: regression; kl: L-BFGS on the divergence of predictions; auto: kl where it is affordable."""
    ridge: Annotated[float, Field(ge=0)] = 0.0
    """Penalty on a translator's weight, as a share of the mean square of what it reads; 0: 0.001."""
    held_out_share: _OpenFraction = 0.0
    """Of the texts; 0: 0.2."""
    max_iterations: Annotated[int, Field(ge=0, le=1000)] = 0
    """Of L-BFGS, for each layer; 0: 50."""

    def to_result(self) -> TunedLensResult:
        """The empty result of the request as the SDK writes it."""
        return TunedLensResult(
            training_request(
                [*self.texts],
                objective=self.objective,
                ridge=self.ridge,
                held_out_share=self.held_out_share,
                max_iterations=self.max_iterations,
                model_id=self.model or "",
                bos=None,
            )
        )


class TunedLayer(BaseModel):
    """One translator, on held-out tokens: mean KL(model || lens) in nats."""

    point: int
    held_out_kl_before: float
    """Of the logit lens."""
    held_out_kl_after: float
    """Of the tuned lens."""
    held_out_kl_ridge: float
    iterations: int
    """Of L-BFGS; 0: the ridge's translator is kept."""


class TunedLensResponse(BaseModel):
    """A tuned lens that was trained."""

    object: Literal["tuned_lens"] = "tuned_lens"
    lens: TunedLensFile
    """As `tuned_lens` of a request takes it."""
    layers: list[TunedLayer]
    token_count: int
    call_count: int
    elapsed_seconds: float


def flow_writer_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """A writer with its rewriters as objects."""
    return {**found, "rewriters": [{"name": name, "share": share} for name, share in found["rewriters"]]}
