"""Models and what can be seen in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel, Text
from neuroscope_gateway.schemas.unsupported import Unsupported


class LoadModelRequest(StrictModel):
    """A model to load."""

    model_path: Text = Field(min_length=1)
    """A folder as the inference service sees it, or a Hugging Face id."""
    model_id: Text | None = None
    """Name in later requests; absent: the last part of the path."""
    revision: Text | None = None
    adapter_path: Text | None = None
    max_kv_size: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Of mlx-engine's clients; without effect, since no key is ever dropped."""

    # Of mlx-engine's clients, with an effect that the engine does not have.
    trust_remote_code: Annotated[Any, Unsupported(False)] = None
    vocab_only: Annotated[Any, Unsupported(False)] = None


class Model(BaseModel):
    """A loaded model: OpenAI's four fields, and its shape."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was loaded, Unix time in seconds."""
    owned_by: str = "neuroscope"
    model_path: str
    architecture: str
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    vocab_size: int
    context_length: int
    """Longest sequence in tokens; 0 where the model does not say."""
    dtype: str
    parameter_count: int
    weights_bytes: int
    weights_hash: str
    """Hash of the checkpoint, its quantisation and its adapter; empty where it is not known."""
    has_chat_template: bool
    bos_token_id: int | None
    eos_token_ids: list[int]


class ModelList(BaseModel):
    """The loaded models."""

    object: Literal["list"] = "list"
    data: list[Model]
    models: list[Model]
    """The same, as mlx-engine's clients read it."""


class HookPoint(BaseModel):
    """A point of the vocabulary in a model."""

    component: str
    layer: int | None
    layer_name: str
    is_input: bool
    available: bool
    reason: str
    axes: list[str]
    dtype: str
    module_path: str


class IdentityCheck(BaseModel):
    """An identity over all layers, such as resid_mid + mlp_contrib == resid_post."""

    name: str
    worst_relative_error: float
    tolerance: float
    failed_layers: list[int]


class SelfTest(BaseModel):
    """What the self-test at load proved."""

    logits_identical: bool
    token_count: int
    duration_ms: float
    identities: list[IdentityCheck]


class ModelDetail(Model):
    """A loaded model and its points."""

    hook_points: list[HookPoint]
    self_test: SelfTest


class DeletedModel(BaseModel):
    """The model that was freed."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class LoadedModel(Model):
    """The model that was loaded."""

    model_id: str
    status: Literal["loaded"] = "loaded"
    supports_activations: bool = True
