"""What every request for text has in common, whatever its prompt looks like."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.interventions.forms import InterventionForm
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text
from neuroscope_gateway.examples.interventions import EXAMPLES

MAX_CHOICES = 128
_UINT64 = 2**64


def to_text_list(value: Any) -> Any:
    """One text as a list of it."""
    return [value] if isinstance(value, str) else value


StopTexts = Annotated[
    list[Annotated[Text, Field(min_length=1)]] | None,
    BeforeValidator(to_text_list, json_schema_input_type=str | list[str] | None),
]
Metadata = dict[Text, Text]
"""Texts by name, as OpenAI has them; numbers of any size would not come back as they were sent."""
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
LogitBias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(StrictModel):
    """Options of a streamed answer."""

    include_usage: bool | None = False
    """Sends the token counts in a last chunk."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded."""


class GenerationRequest(StrictModel):
    """How text is generated: OpenAI's parameters, and top_k, min_p, repetition_penalty, kv_bits, interventions."""

    model: Text | None = None
    """A loaded model; absent: the one that was loaded first."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0, the default: always the likeliest token, so that captures can be repeated."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Keeps the smallest set of tokens whose probability reaches this."""
    stream: bool | None = False
    top_k: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Keeps this many likeliest tokens; 0: all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Keeps tokens with at least this share of the likeliest token's probability."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    """Seed of the draws; a negative one is read modulo 2^64."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Subtracted from the logits of tokens that the row has."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Subtracted from the logit of a token as often as the row has it."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    """What the logits of tokens that the row has are divided by, or multiplied with where they are negative."""
    penalty_context_size: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """How many of the row's last tokens, prompt and generated, the penalties look at; 0: all."""
    penalize_generated_only: bool | None = None
    """The penalties look at generated tokens alone."""
    logit_bias: dict[TokenId, LogitBias] | None = Field(default=None, examples=[{"42": -100}])
    """What is added to the logits of tokens, by token id, before the penalties."""
    kv_bits: int | None = Field(default=None, ge=2, le=8)
    """Keeps keys and values in so many bits: 2, 3, 4, 5, 6 or 8; absent: as they are."""
    kv_group_size: int | None = Field(default=None, ge=32, le=128)
    """Numbers that share a scale: 32, 64 (the default) or 128."""
    interventions: list[InterventionForm] | None = Field(default=None, examples=[EXAMPLES])
    """Edits of activations while the answer is computed, in the order in which they apply."""

    @property
    @abstractmethod
    def prompts(self) -> PromptLike:
        """What the model reads."""

    @property
    @abstractmethod
    def max_tokens_param(self) -> tuple[str, int | None]:
        """Most tokens to generate, under the name that was used."""

    @property
    def choice_count(self) -> int:
        """Answers for each prompt."""
        return 1

    @property
    def top_logprob_count(self) -> int | None:
        """Likeliest alternatives wanted for each token; None where no probability is."""
        return None

    @property
    def stop_texts(self) -> list[str] | None:
        """Texts that end the generation."""
        return None

    @abstractmethod
    def prompt_param(self, field: str) -> str:
        """What this request calls a field of the prompts that the inference service speaks of."""

    def sampling(self) -> dict[str, Any]:
        """The arguments of `AsyncClient.generate`; what the request leaves out keeps the client's default."""
        wanted = {
            "model_id": self.model,
            "max_tokens": self.max_tokens_param[1],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": None if self.seed is None else self.seed % _UINT64,
            "stop": self.stop_texts,
            "n": self.choice_count,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "penalty_context_size": self.penalty_context_size,
            "penalize_generated_only": self.penalize_generated_only,
            "logit_bias": self.logit_bias and {int(token): bias for token, bias in self.logit_bias.items()},
            "kv_bits": self.kv_bits,
            "kv_group_size": self.kv_group_size,
            # One at least, because the alternatives carry the tokens' texts.
            "top_logprobs": None if self.top_logprob_count is None else max(1, self.top_logprob_count),
        }
        return {name: value for name, value in wanted.items() if value is not None}


class ChoicesRequest(GenerationRequest):
    """A request whose answer is a list of choices."""

    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    """Answers; answer i draws with the seed `seed` + i."""
    stop: StopTexts = None
    """Texts that end the generation; they are not part of the answer."""
    stream_options: StreamOptions | None = None
    user: Text | None = None
    """Accepted, without effect."""

    @property
    def choice_count(self) -> int:
        """Answers for each prompt."""
        return self.n or 1

    @property
    def stop_texts(self) -> list[str] | None:
        """Texts that end the generation."""
        return self.stop

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @model_validator(mode="after")
    def _check_stream_options(self) -> ChoicesRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(INVALID, "This needs stream: true", {"param": "stream_options"})
        return self
