"""Hooks in the NeuroScope REST format, and their registration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, RootModel, Tag, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text


def _hook_tag(value: Any) -> str:
    return "<id>" if isinstance(value, str) else "<hook>"


def _registration_tag(value: Any) -> str:
    if isinstance(value, list):
        return "<list>"
    return "<hooks>" if isinstance(value, dict) and "hooks" in value else "<hook>"


class FeatureReduction(StrictModel):
    """Features of a dictionary instead of an activation."""

    dictionary_id: Text = Field(min_length=1)
    top_count: int = Field(default=0, ge=0, le=MAX_INT32)
    """Number of strongest features at each position: their values and indices (-1 if fewer are active)."""
    features: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([], max_length=65536)
    """Features by index."""
    all: bool = False
    """All features."""
    l0: bool = False
    """The number of active features."""
    error: bool = False
    """The squared norms of the reconstruction error and of the activation."""


class ActivationHook(StrictModel):
    """A hook: what to capture."""

    layer_name: Text | None = Field(default=None, examples=["transformer.h.5"])
    """The layer in any common spelling: transformer.h.5, model.layers.5, blocks.5; default: every layer."""
    component: Text = Field(default="", examples=["attention"])
    """residual, attention, mlp, embedding, layernorm, attention_scores, attention_pattern, key, query, value; or a
    finer name: resid_pre, head_output, mlp_neurons, logits, ...; or a full TransformerLens name. Not with
    `features`."""
    hook_id: Text | None = None
    """Id in the response; default: made from the site."""
    capture_input: bool | None = False
    """Captures the input of the component."""
    capture_output: bool | None = True
    """Captures the output of the component."""
    features: FeatureReduction | None = Field(default=None, exclude_if=lambda value: value is None)
    """Captures features of a dictionary at its site."""

    @model_validator(mode="after")
    def _check_sides(self) -> ActivationHook:
        if not self.component and self.features is None:
            raise PydanticCustomError(INVALID, "A hook names a component, or features", {"param": "component"})
        if self.capture_output is False and not self.capture_input:
            message = "A hook captures its input, its output or both; this one captures neither"
            raise PydanticCustomError(INVALID, message, {"param": "capture_output"})
        return self


HookOrId = Annotated[Annotated[ActivationHook, Tag("<hook>")] | Annotated[Text, Tag("<id>")], Discriminator(_hook_tag)]


class RegisterHooksBody(StrictModel):
    """Hooks to register."""

    hooks: list[ActivationHook] = Field(min_length=1)
    model: Text | None = None
    """A loaded model to check the hooks against; default: only names are checked."""


class RegisterHooksRequest(
    RootModel[
        Annotated[
            Annotated[RegisterHooksBody, Tag("<hooks>")]
            | Annotated[list[ActivationHook], Field(min_length=1), Tag("<list>")]
            | Annotated[ActivationHook, Tag("<hook>")],
            Discriminator(_registration_tag),
        ]
    ]
):
    """`{"hooks": [...]}`, a list of hooks, or one hook."""


class ClearHooksRequest(StrictModel):
    """A request to remove hooks."""

    hook_ids: list[Text] | None = None
    """Ids of the hooks; default: all."""


class RegisterHooksResponse(BaseModel):
    """Ids of the registered hooks, in the order of the request."""

    registered_hooks: list[str]


class HookList(BaseModel):
    """The registered hooks."""

    object: Literal["list"] = "list"
    hooks: list[ActivationHook]


class ClearHooksResponse(BaseModel):
    """The removed hooks."""

    status: Literal["hooks cleared"] = "hooks cleared"
    cleared_hooks: list[str]
