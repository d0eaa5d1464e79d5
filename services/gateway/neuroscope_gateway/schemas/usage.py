"""Token counts of OpenAI's completions."""

from __future__ import annotations

from pydantic import BaseModel


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
