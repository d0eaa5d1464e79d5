"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorBody(BaseModel):
    """An error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorBody
