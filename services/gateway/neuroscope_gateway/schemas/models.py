"""Models and their hook points."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel, Text
from neuroscope_gateway.schemas.unsupported import Unsupported


class LoadModelRequest(StrictModel):
    """A request to load a model."""

    model_path: Text = Field(min_length=1)
    """A folder on the machine of the inference service, or a Hugging Face id."""
    model_id: Text | None = None
    """Id in later requests; default: the last part of the path."""
    revision: Text | None = None
    adapter_path: Text | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """In which the model computes; default: that of the files, and float32 for GGUF on MLX's CPU backend."""
    dequantize: bool | None = None
    """Whether quantised weights become plain ones; default: those of GGUF on MLX's CPU backend."""
    max_kv_size: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Accepted for mlx-engine's clients and ignored: the KV cache is never truncated."""

    # mlx-engine's clients send them; accepted at neutral values only.
    trust_remote_code: Annotated[Any, Unsupported(False)] = None
    vocab_only: Annotated[Any, Unsupported(False)] = None


class Quantization(BaseModel):
    """A form of quantised weights."""

    bits: int
    group_size: int
    mode: str
    matrices: int


class Model(BaseModel):
    """A loaded model: OpenAI's fields, and its shape."""

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
    """Context length in tokens; 0 if unknown."""
    dtype: str
    parameter_count: int
    weights_bytes: int
    weights_hash: str
    """Hash of the checkpoint, its quantization and its adapter; empty if unknown."""
    quantization: list[Quantization]
    """Forms of quantised weights in memory; empty: none are."""
    notes: list[str]
    """What became of the files' weights as they were loaded."""
    has_chat_template: bool
    bos_token_id: int | None
    eos_token_ids: list[int]


class ModelList(BaseModel):
    """The loaded models."""

    object: Literal["list"] = "list"
    data: list[Model]
    models: list[Model]
    """The same list, for mlx-engine's clients."""


class HookPoint(BaseModel):
    """A hook point of a model."""

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
    """An identity checked in all layers, such as resid_mid + mlp_contrib == resid_post."""

    name: str
    worst_relative_error: float
    tolerance: float
    failed_layers: list[int]


class SelfTest(BaseModel):
    """The self-test of a model at load."""

    logits_identical: bool
    token_count: int
    duration_ms: float
    identities: list[IdentityCheck]


class ModelDetail(Model):
    """A loaded model and its hook points."""

    hook_points: list[HookPoint]
    self_test: SelfTest


class DeletedModel(BaseModel):
    """The unloaded model."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class LoadedModel(Model):
    """The loaded model."""

    model_id: str
    status: Literal["loaded"] = "loaded"
    supports_activations: bool = True
