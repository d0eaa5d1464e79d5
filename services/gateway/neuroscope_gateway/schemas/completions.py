"""Text completions: OpenAI's legacy API, without a chat template."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, Text
from neuroscope_gateway.schemas.generation import ChoicesRequest
from neuroscope_gateway.schemas.unsupported import Unsupported
from neuroscope_gateway.schemas.usage import Usage

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default."""
MAX_PROMPTS = 256
_PROMPT = re.compile(r"prompts\[(\d+)\]")


def _prompt_tag(value: Any) -> str:
    if not isinstance(value, list):
        return "<text>"
    first = next(iter(cast("list[Any]", value)), None)
    if isinstance(first, list):
        return "<lists>"
    return "<ids>" if isinstance(first, int | float) else "<texts>"


TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
TextPrompt = Annotated[Text, Field(min_length=1)]
CompletionPrompt = Annotated[
    Annotated[TextPrompt, Tag("<text>")]
    | Annotated[list[TextPrompt], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<texts>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS), Tag("<lists>")],
    Discriminator(_prompt_tag),
]


class CompletionRequest(ChoicesRequest):
    """A text completion: OpenAI's parameters and those of `GenerationRequest`."""

    prompt: CompletionPrompt = Field(examples=["The capital of France is", [464, 3139], ["Once", "Twice"]])
    """A text, token ids, or a list of texts or of lists of token ids. Each has `n` choices, in this order."""
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Maximum number of generated tokens; default: 16. 0 needs `echo` and returns the prompt only."""
    echo: bool | None = False
    """Prepends the prompt to each text, and its log-probabilities if `logprobs` is set; the first token has none."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Returns log-probabilities of the tokens and of this many most likely alternatives."""

    # Accepted at neutral values only.
    suffix: Annotated[Any, Unsupported()] = None
    best_of: Annotated[Any, Unsupported(1)] = None

    @model_validator(mode="after")
    def _check_consistency(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError(INVALID, "0 needs echo: true", {"param": "max_tokens"})
        return self

    @property
    def prompts(self) -> PromptLike:
        """The prompts in the SDK's form."""
        return self.prompt

    @property
    def max_tokens_param(self) -> tuple[str, int | None]:
        """The parameter that limits generated tokens, and its value."""
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return "max_tokens", max(1, limit)  # the prefill always samples one token; `is_echo_only` drops it

    @property
    def is_echo_only(self) -> bool:
        """Whether only the prompt is returned."""
        return self.max_tokens == 0

    @property
    def top_logprob_count(self) -> int | None:
        """Number of alternatives for each token; None without log-probabilities."""
        return self.logprobs

    @property
    def prompt_list(self) -> list[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [row for row in self.prompt if not isinstance(row, int)]

    def prompt_param(self, field: str) -> str:
        """Turns `prompts[2]` into `prompt[2]` if the request has a list of prompts."""
        match = _PROMPT.match(field)
        is_list = not isinstance(self.prompt, str) and not isinstance(self.prompt[0], int)
        return f"prompt[{match[1]}]" if match and is_list else "prompt"


class TextLogprobs(BaseModel):
    """Log-probabilities before bias, penalties, temperature and filters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """null for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, float] | None] | None
    """The token itself and the most likely alternatives; null without alternatives."""
    text_offset: list[int]
    """Offset of each token in `text`, in characters."""


class TextChoice(BaseModel):
    """A finished choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    """A text completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
