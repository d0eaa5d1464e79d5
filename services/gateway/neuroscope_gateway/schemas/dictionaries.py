"""Dictionaries (sparse autoencoders, transcoders) and their features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel, Text


class LoadDictionaryRequest(StrictModel):
    """A request to load a dictionary."""

    path: Text = Field(min_length=1)
    """A folder with cfg.json and sae_weights.safetensors on the machine of the inference service."""
    dictionary_id: Text | None = None
    """Id in later requests; default: the last part of the path."""
    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    site: Text | None = Field(default=None, examples=["resid_post.2"])
    """The site that it reads; default: that of its configuration."""
    output_site: Text | None = None
    """The site that a transcoder writes; default: that of its configuration."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """The type in memory; default: that of the file."""


class Dictionary(BaseModel):
    """A loaded dictionary."""

    id: str
    object: Literal["dictionary"] = "dictionary"
    created: int
    """When it was loaded, Unix time in seconds."""
    model: str
    path: str
    architecture: Literal["standard", "jumprelu", "topk", "gated"]
    site: str
    """The site that it reads."""
    output_site: str
    """The site that it writes: `site`, except for a transcoder."""
    feature_count: int
    input_width: int
    output_width: int
    top_k: int
    """k of a top-k dictionary; otherwise 0."""
    dtype: str
    length_bytes: int
    trained_on: str
    """The model that it was trained on, from its configuration."""
    warnings: list[str]


class DictionaryList(BaseModel):
    """The loaded dictionaries."""

    object: Literal["list"] = "list"
    data: list[Dictionary]


class DeletedDictionary(BaseModel):
    """The unloaded dictionary."""

    id: str
    object: Literal["dictionary"] = "dictionary"
    deleted: Literal[True] = True


class FeaturesRequest(StrictModel):
    """A request for the features of a prompt."""

    prompt: Text | Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    """A text, or token ids."""
    top: int = Field(default=16, ge=1, le=MAX_INT32)
    """Maximum number of features at each position."""


class ActiveFeature(BaseModel):
    """A feature and its activation."""

    feature: int
    value: float


class PositionFeatures(BaseModel):
    """The features at a position."""

    position: int
    token_id: int
    token: str
    active_count: int
    """Number of active features (L0)."""
    squared_error: float
    """Squared norm of the reconstruction error."""
    squared_norm: float
    """Squared norm of the activation."""
    features: list[ActiveFeature]
    """Strongest first."""


class FeatureActivations(BaseModel):
    """The strongest features at each position of a prompt."""

    object: Literal["features"] = "features"
    dictionary_id: str
    model: str
    fvu: float | None
    """Fraction of variance unexplained over all positions; null for a single position."""
    positions: list[PositionFeatures]
