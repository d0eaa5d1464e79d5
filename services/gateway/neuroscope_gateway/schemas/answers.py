"""Answers that belong to no resource: health and errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """State of the gateway and of the inference service behind it."""

    status: Literal["healthy", "unavailable"]
    service: Literal["neuroscope-gateway"] = "neuroscope-gateway"
    version: str
    inference: str
    models: list[str]


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error."""

    error: ErrorBody
