"""What the service keeps of streams, and the tensors in them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class CapturedRow(BaseModel):
    """What of a tensor one row has."""

    row: int
    piece_count: int
    position_count: int
    length_bytes: int


class CapturedTensor(BaseModel):
    """A tensor of a kept stream; it has values for every step and row that its hook saw."""

    tensor: int
    """Its name in `/v1/activations/captures/{capture_id}/{tensor}`."""
    hook_id: str
    layer_name: str
    component: str
    """The service's own name."""
    is_input: bool
    dtype: str
    axes: list[str]
    reduced: str
    """What of the tensor this is, such as `norm`; empty: the tensor itself."""
    rows: list[CapturedRow]


class Capture(BaseModel):
    """A kept stream."""

    id: str
    object: Literal["capture"] = "capture"
    state: Literal["running", "committed", "broken"]
    expires_at: int
    """When it is removed, Unix time in seconds."""
    prompt_tokens: int
    completion_tokens: int
    tensors: list[CapturedTensor]


class CaptureList(BaseModel):
    """The kept streams, oldest first."""

    object: Literal["list"] = "list"
    data: list[Capture]


class DeletedCapture(BaseModel):
    """What was removed."""

    id: str
    object: Literal["capture"] = "capture"
    deleted: Literal[True] = True
