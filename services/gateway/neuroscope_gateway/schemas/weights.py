"""The weights of a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

WeightFormat = Literal["binary", "list", "base64"]


class WeightSummary(BaseModel):
    """Statistics of a weight."""

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
    """null if it belongs to no layer."""
    shape: list[int]
    axes: list[str]
    dtype: str
    module: str
    """Path of its module in the model."""
    source: Literal["stored", "dequantized", "adapted", "effective"]
    """The origin of its values."""
    heads: list[int]
    """Indices along the head axis; key/value heads for keys and values."""
    experts: list[int]
    measures: WeightSummary | None = None


class WeightLayerInfo(BaseModel):
    """How a layer uses its weights."""

    layer: int
    is_rotary: bool
    has_query_norm: bool
    score_scale: float
    """The scale of attention scores; 0 if unknown."""
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
    """How these matrices relate to the model's activations."""
    missing: dict[str, str]
    """Known weight names that the model does not have, with the reason."""


class WeightValues(WeightInfo):
    """A weight with its values."""

    object: Literal["weight"] = "weight"
    data: Annotated[list[Any] | str, Field(union_mode="left_to_right")]
    """Nested lists, or row-major little-endian bytes in base64."""
