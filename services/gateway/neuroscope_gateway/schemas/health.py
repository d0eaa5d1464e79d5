"""The state of the gateway and of the inference service."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Workload(BaseModel):
    """The load of the inference service; counts since its start."""

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
    """The state of the gateway and of its inference service."""

    status: Literal["healthy", "unavailable"]
    service: Literal["neuroscope-gateway"] = "neuroscope-gateway"
    version: str
    inference: str
    models: list[str]
    workload: Workload | None = None
