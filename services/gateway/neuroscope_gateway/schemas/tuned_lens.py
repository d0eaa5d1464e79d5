"""Tuned lenses and their training: request and response."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from neuroscope.analysis import TunedLens, TunedLensResult
from neuroscope.interventions.tensor_json import EncodedTensor
from neuroscope.results.tuned_training import training_request
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.analysis_request import AnalysisRequest
from neuroscope_gateway.schemas.prompts import Prompt

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
