"""Prompts, tokens and seeds."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.strict_model import Text

TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Prompt: TypeAlias = Annotated[Text, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]
"""A text, or token ids."""
Token: TypeAlias = Text | TokenId
"""A token: its id, or a text that is exactly one token."""


def prompt_message(prompt: str | list[int]) -> inference_pb2.Prompt:
    """A prompt as a message of the contract."""
    if isinstance(prompt, str):
        return inference_pb2.Prompt(text=prompt)
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=prompt))


def token_message(token: str | int) -> pb.TokenChoice:
    """A token as a message of the contract."""
    return pb.TokenChoice(text=token) if isinstance(token, str) else pb.TokenChoice(id=token)
