"""What vectors predict, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.interventions.tensor_json import TensorForm
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.prompts import Token


class VocabularyRequest(StrictModel):
    """Vectors through the model's own final norm and unembedding."""

    model: Text | None = None
    """Absent: the one loaded first."""
    vectors: TensorForm
    """(..., d_model): nested lists, base64, or where the service has them."""
    norm: bool = True
    """false leaves out the final norm: for directions that are no residual stream."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 10
    """So many likeliest tokens; 0: none."""
    tokens: list[Token] = Field([], max_length=4096)
    """Tokens whose logits, log-probabilities and ranks are wanted."""
    reference: Annotated[int, Field(ge=0, lt=2**32)] | TensorForm | None = None
    """A row of the vectors, another vector, or one for each: KL(reference || vector) is answered."""


class PredictedToken(BaseModel):
    """A token as a vector predicts it."""

    id: int
    text: str
    logit: float
    log_probability: float
    rank: int
    """How many tokens are likelier."""


class Prediction(BaseModel):
    """What one vector predicts."""

    index: list[int]
    """Its place in the vectors, without their last axis."""
    top: list[PredictedToken]
    tokens: list[PredictedToken]
    """Those that were asked for, in their order."""
    kl: float | None
    """KL(reference || vector) in nats."""
    entropy: float
    """Of the distribution, in nats."""


class Vocabulary(BaseModel):
    """What vectors predict."""

    object: Literal["vocabulary"] = "vocabulary"
    model: str
    data: list[Prediction]
    """One for each vector, in the order of their rows."""
