"""Analyses of the residual stream and training of tuned lenses: requests and responses."""

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
    """The translator of one point of the residual stream: x + x @ weight + bias."""

    point: Annotated[int, Field(ge=0, lt=2**31)]
    """0: resid_pre of the first layer, 1: its resid_post."""
    weight: EncodedTensor
    """float32 (d_model, d_model)."""
    bias: EncodedTensor
    """float32 (d_model)."""


class TunedLensFile(StrictModel):
    """A tuned lens."""

    model: Text
    """The model that it was trained on."""
    marks: dict[str, float] = Field({})
    """Norms of weights that identify the model."""
    translators: list[Translator]
    provenance: dict[str, Any] = Field({})
    """Objective, hash of the texts, held-out divergence."""

    def to_lens(self) -> TunedLens:
        """The SDK's tuned lens."""
        return TunedLens(
            self.model,
            self.marks,
            {each.point: each.weight.array().astype(np.float32) for each in self.translators},
            {each.point: each.bias.array().astype(np.float32) for each in self.translators},
            self.provenance,
        )

    @classmethod
    def from_lens(cls, lens: TunedLens) -> TunedLensFile:
        """The JSON of the SDK's tuned lens."""
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
    """Id of a loaded model; default: the model loaded first."""
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=256)]
    """Texts or lists of token ids."""
    parts: Annotated[list[Part], Field(min_length=1)] | None = None
    """Parts of the analysis; default: contributions, attribution and lens, and flow if there are corrupted prompts."""
    answers: list[Token] = Field([], max_length=256)
    """Tokens whose logits are attributed, one for all prompts or one for each; default: the model's prediction."""
    others: list[Token] = Field([], max_length=256)
    """Tokens to compare with; default: none."""
    position: Index = -1
    """Position that predicts the answer, negative from the end."""
    top_k: _Count = 0
    """Number of top tokens of lenses; 0: 5."""
    tuned_lens: TunedLensFile | None = None
    """A tuned lens, in addition to the logit lens."""
    strongest_neurons: _Count = 0
    """Number of strongest neurons to return."""
    neurons: list[Neuron] = Field([], max_length=65536)
    """Neurons to return instead of the strongest."""
    queries: list[Index] = Field([], max_length=65536)
    """Query positions of routing; default: all, or the answer's position if that is too large."""
    by_head: bool = False
    """Also returns routing by head."""
    references: list[Prompt] = Field([], max_length=256)
    """Prompts for mean ablation; default: `prompts`."""
    corrupted: list[Prompt] = Field([], max_length=256)
    """A corrupted prompt for each prompt, with as many tokens."""
    least_effect: _OpenFraction = 0.0
    """Minimum effect of an edge, as a share of the difference between both runs; 0: 0.05."""
    tolerance: _OpenFraction = 0.0
    """Tolerated change of a write between writer and reader of a skip edge; 0: 0.1."""
    max_writers: _Count = 0
    """Maximum number of writers whose paths are patched; 0: 64."""

    def to_result(self) -> ResidualResult:
        """The SDK's empty result of this request."""
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
    """A token and its attributed logit."""

    token_id: int
    text: str
    logit: float
    """The model's logit."""
    sum: float
    """The sum of all contributions: the logit before a softcap."""
    constant: float
    """The part of the sum from biases."""


class NeuronAttribution(BaseModel):
    """The direct contribution of a neuron."""

    layer: int
    neuron: int
    activation: float
    logit: float


class LogitAttribution(BaseModel):
    """Direct logit attribution with a frozen final norm."""

    position: int
    answer: TokenAttribution
    other: TokenAttribution | None
    norm_scale: float
    """The scale that the final norm divides by."""
    logit_scale: float
    softcap: float | None
    """Applied after the sum."""
    neurons: list[NeuronAttribution]


class ReconstructionError(BaseModel):
    """The error of the sum of all contributions, relative to the norm of the residual stream."""

    components: float
    heads: float | None


class LensSummary(BaseModel):
    """The answer in the lenses."""

    answer_id: int
    emergence: int | None
    """The point from which the answer stays the top token; 0: before the first layer."""
    tuned_emergence: int | None
    texts: dict[str, str]
    """Texts of all top tokens by token id."""


class Rewriter(BaseModel):
    """A component that changes another's write."""

    name: str
    share: float
    """Change as a share of the write; -1 erases it."""


class FlowWriter(BaseModel):
    """A component that writes part of the difference between both runs."""

    name: str
    effect: float
    written_norm: float
    survival: list[float]
    """The remaining share of its write before each layer, then at the end."""
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
    """The flow of information between components."""

    clean: float
    corrupted: float
    writers: list[FlowWriter]
    edges: list[FlowEdge]


class PromptAnalysis(BaseModel):
    """The results of one prompt; parts that were not requested are null."""

    token_ids: list[int]
    tokens: list[str]
    position: int
    """The position that predicts the answer."""
    arrays: list[NamedArray]
    error: ReconstructionError | None
    attribution: LogitAttribution | None
    lens: LensSummary | None
    metric: float | None
    """The metric of the unablated run."""
    flow: InformationFlow | None


class ResidualAnalysisResponse(BaseModel):
    """The result of an analysis of the residual stream."""

    object: Literal["residual_analysis"] = "residual_analysis"
    model: str
    parts: list[str]
    components: list[str]
    """The components that write, in order."""
    prompts: list[PromptAnalysis]
    notes: list[str]
    """How the numbers are defined."""
    warnings: list[str]
    token_count: int
    call_count: int
    elapsed_seconds: float


class TunedLensRequest(AnalysisRequest):
    """A request to train a tuned lens."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    texts: Annotated[list[Prompt], Field(min_length=2, max_length=4096)]
    """Training texts; the last ones are held out."""
    objective: Literal["auto", "ridge", "kl"] = "auto"
    """`ridge`: ridge regression; `kl`: L-BFGS on the KL divergence; `auto`: kl if it is affordable."""
    ridge: Annotated[float, Field(ge=0)] = 0.0
    """Ridge penalty relative to the mean square of the input; 0: 0.001."""
    held_out_share: _OpenFraction = 0.0
    """Share of held-out texts; 0: 0.2."""
    max_iterations: Annotated[int, Field(ge=0, le=1000)] = 0
    """Maximum L-BFGS iterations for each layer; 0: 50."""

    def to_result(self) -> TunedLensResult:
        """The SDK's empty result of this request."""
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
    """One translator, with its mean KL(model || lens) on held-out tokens in nats."""

    point: int
    held_out_kl_before: float
    """With the logit lens."""
    held_out_kl_after: float
    """With the tuned lens."""
    held_out_kl_ridge: float
    iterations: int
    """L-BFGS iterations; 0: the ridge solution is kept."""


class TunedLensResponse(BaseModel):
    """The result of training a tuned lens."""

    object: Literal["tuned_lens"] = "tuned_lens"
    lens: TunedLensFile
    """For `tuned_lens` of later requests."""
    layers: list[TunedLayer]
    token_count: int
    call_count: int
    elapsed_seconds: float


def flow_writer_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a writer, with its rewriters as objects."""
    return {**found, "rewriters": [{"name": name, "share": share} for name, share in found["rewriters"]]}
