"""Dictionaries of the loaded models: what is loaded, and what is said of them and of their features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel, Text


class LoadDictionaryRequest(StrictModel):
    """A dictionary to load."""

    path: Text = Field(min_length=1)
    """A folder with cfg.json and sae_weights.safetensors, as the inference service sees it."""
    dictionary_id: Text | None = None
    """Name in later requests; absent: the last part of the path."""
    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    site: Text | None = Field(default=None, examples=["resid_post.2"])
    """Where it reads; absent: as its configuration says."""
    output_site: Text | None = None
    """Where a transcoder writes; absent: as its configuration says."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Type to keep it in; absent: that of its file."""


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
    """Where it reads."""
    output_site: str
    """Where it writes; `site`, but for a transcoder."""
    feature_count: int
    input_width: int
    output_width: int
    top_k: int
    """Of a top-k; 0 otherwise."""
    dtype: str
    length_bytes: int
    trained_on: str
    """The model that it was trained on, as its configuration says."""
    warnings: list[str]


class DictionaryList(BaseModel):
    """The loaded dictionaries."""

    object: Literal["list"] = "list"
    data: list[Dictionary]


class DeletedDictionary(BaseModel):
    """The dictionary that was freed."""

    id: str
    object: Literal["dictionary"] = "dictionary"
    deleted: Literal[True] = True


class FeaturesRequest(StrictModel):
    """A prompt whose features are wanted."""

    prompt: Text | Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    """A text, or token ids."""
    top: int = Field(default=16, ge=1, le=MAX_INT32)
    """Features at each position, at most."""


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
    """How many are active (L0)."""
    squared_error: float
    """Squared norm of what the reconstruction misses."""
    squared_norm: float
    """Squared norm of what is reconstructed."""
    features: list[ActiveFeature]
    """Most active first."""


class FeatureActivations(BaseModel):
    """The most active features at each position of a prompt."""

    object: Literal["features"] = "features"
    dictionary_id: str
    model: str
    fvu: float | None
    """Fraction of variance unexplained over all positions; null of a single one."""
    positions: list[PositionFeatures]
