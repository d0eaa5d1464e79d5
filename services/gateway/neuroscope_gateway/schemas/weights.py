"""The weights of a model: what there is, and one of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

WeightFormat = Literal["binary", "list", "base64"]


class WeightSummary(BaseModel):
    """What is said of a weight in place of its values."""

    norm: float
    """Square root of the sum of squares."""
    mean: float
    standard_deviation: float
    largest: float
    """Largest magnitude."""


class WeightInfo(BaseModel):
    """A weight of one layer."""

    name: str
    """Its name in `/v1/experiments/weights/{weight}`."""
    layer: int | None
    """Absent where it belongs to no layer."""
    shape: list[int]
    axes: list[str]
    dtype: str
    module: str
    """Path of its module in the model."""
    source: Literal["stored", "dequantized", "adapted", "effective"]
    """Where its numbers are from."""
    heads: list[int]
    """Along the head axis; key/value heads of keys and values."""
    experts: list[int]
    measures: WeightSummary | None = None


class WeightLayerInfo(BaseModel):
    """What a layer does with its weights."""

    layer: int
    is_rotary: bool
    has_query_norm: bool
    score_scale: float
    """What products of queries and keys are multiplied with; 0: not known."""
    score_softcap: float | None
    contribution_scale: float
    activation: str


class WeightList(BaseModel):
    """The weights of a model; matrices are (inputs, outputs): x @ W + b."""

    object: Literal["list"] = "list"
    model: str
    data: list[WeightInfo]
    layers: list[WeightLayerInfo]
    embedding_scale: float
    logit_scale: float
    logit_softcap: float | None
    is_tied: bool
    notes: list[str]
    """What stands between these matrices and the model's activations."""
    missing: dict[str, str]
    """Why the model lacks the other weights that there are names for."""


class WeightValues(WeightInfo):
    """A weight in JSON."""

    object: Literal["weight"] = "weight"
    data: Annotated[list[Any] | str, Field(union_mode="left_to_right")]
    """Nested lists, or row-major little-endian bytes in base64."""
