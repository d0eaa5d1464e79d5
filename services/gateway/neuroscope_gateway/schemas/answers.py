"""Answers, and parts of them, that belong to no resource: health, usage, errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Workload(BaseModel):
    """What the inference service is busy with; counts are since its start."""

    streams: int
    decoding_rows: int
    generated_tokens: int
    captured_bytes: int
    queue_wait_ms: float
    weights_bytes: int
    weights_budget_bytes: int
    active_memory_bytes: int
    peak_memory_bytes: int
    shared_memory_streams: int
    shared_memory_bytes: int


class Health(BaseModel):
    """State of the gateway and of the inference service behind it."""

    status: Literal["healthy", "unavailable"]
    service: Literal["neuroscope-gateway"] = "neuroscope-gateway"
    version: str
    inference: str
    models: list[str]
    workload: Workload | None = None


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error."""

    error: ErrorBody
