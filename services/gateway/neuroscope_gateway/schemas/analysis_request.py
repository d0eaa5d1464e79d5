"""What requests of analyses have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from neuroscope.vocabulary.strict_model import StrictModel
from neuroscope_gateway.schemas.prompts import Prompt, Token
from neuroscope_gateway.schemas.sweep_axes import Index

MAX_UINT32 = 2**32 - 1
Layers = Annotated[list[Index], Field(min_length=1, max_length=1024)] | None


class AnalysisRequest(StrictModel):
    """How an analysis is returned: as JSON, unless `stream` or `format` is set."""

    stream: bool = False
    """Returns Server-Sent Events: plan, progress, partial results, and the result."""
    format: Literal["png", "svg", "pdf", "html"] | None = None
    """Returns a picture of this format; not with `stream`."""

    @field_validator("format")
    @classmethod
    def _not_with_stream(cls, format: str | None, info: ValidationInfo) -> str | None:
        if format is not None and info.data.get("stream"):
            raise ValueError("format needs stream: false")
        return format


class AnsweredPair(StrictModel):
    """A clean and a corrupted prompt with as many tokens, and the two tokens that the metric compares."""

    clean: Prompt
    """The prompt with the behaviour: a text or token ids."""
    corrupted: Prompt
    """The prompt without it."""
    answer: Token
    """The next token of the clean prompt: its id, or its text with the leading space."""
    other: Token
    """The next token of the corrupted prompt, or a wrong next token of the clean one."""
