"""Projections of vectors to the vocabulary."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.interventions.tensor_json import TensorForm
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.prompts import Token


class VocabularyRequest(StrictModel):
    """Vectors to project through the model's final norm and unembedding."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    vectors: TensorForm
    """Vectors (..., d_model): nested lists, base64, or a reference to a tensor of the service."""
    norm: bool = True
    """Applies the final norm; false for directions that are not residual streams."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """Number of top tokens; 0: none."""
    tokens: list[Token] = Field([], max_length=4096)
    """Tokens whose logits, log-probabilities and ranks are returned."""
    reference: Annotated[int, Field(ge=0, lt=2**32)] | TensorForm | None = None
    """A row of the vectors, another vector, or one for each: returns KL(reference || vector)."""


class PredictedToken(BaseModel):
    """A predicted token."""

    id: int
    text: str
    logit: float
    log_probability: float
    rank: int
    """Number of more likely tokens."""


class Prediction(BaseModel):
    """The prediction of one vector."""

    index: list[int]
    """The index of the vector, without the last axis."""
    top: list[PredictedToken]
    tokens: list[PredictedToken]
    """The requested tokens, in their order."""
    kl: float | None
    """KL(reference || vector) in nats."""
    entropy: float
    """Entropy of the distribution in nats."""


class Vocabulary(BaseModel):
    """The predictions of all vectors."""

    object: Literal["vocabulary"] = "vocabulary"
    model: str
    data: list[Prediction]
    """One prediction for each vector, in row order."""
