"""Kept streams and their tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class CapturedRow(BaseModel):
    """The pieces of a tensor in one row."""

    row: int
    piece_count: int
    position_count: int
    length_bytes: int


class CapturedTensor(BaseModel):
    """A tensor of a kept stream, with values for every captured step and row."""

    tensor: int
    """Its number in `/v1/activations/captures/{capture_id}/{tensor}`."""
    hook_id: str
    layer_name: str
    component: str
    """The component, by the service's own name."""
    is_input: bool
    dtype: str
    axes: list[str]
    reduced: str
    """The reduction, such as `norm`; empty: the tensor itself."""
    rows: list[CapturedRow]


class Capture(BaseModel):
    """A kept stream."""

    id: str
    object: Literal["capture"] = "capture"
    state: Literal["running", "committed", "broken"]
    expires_at: int
    """When it expires, Unix time in seconds."""
    prompt_tokens: int
    completion_tokens: int
    tensors: list[CapturedTensor]


class CaptureList(BaseModel):
    """The kept streams, oldest first."""

    object: Literal["list"] = "list"
    data: list[Capture]


class DeletedCapture(BaseModel):
    """The deleted capture."""

    id: str
    object: Literal["capture"] = "capture"
    deleted: Literal[True] = True
