"""The common parameters of requests that generate text."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.interventions.forms import InterventionForm
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text
from neuroscope_gateway.examples.interventions import EXAMPLES

MAX_CHOICES = 128
_UINT64 = 2**64


def to_text_list(value: Any) -> Any:
    """Wraps a text in a list."""
    return [value] if isinstance(value, str) else value


StopTexts = Annotated[
    list[Annotated[Text, Field(min_length=1)]] | None,
    BeforeValidator(to_text_list, json_schema_input_type=str | list[str] | None),
]
Metadata = dict[Text, Text]
"""OpenAI's metadata. Values are texts: numbers of any size would not survive the round trip."""
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
LogitBias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(StrictModel):
    """Options of a stream."""

    include_usage: bool | None = False
    """Sends the token counts in a last chunk."""
    include_obfuscation: bool | None = None
    """Accepted and ignored."""


class GenerationRequest(StrictModel):
    """Sampling: OpenAI's parameters, and top_k, min_p, repetition_penalty, kv_bits, interventions."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Default: 0, greedy decoding, which makes captures reproducible."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: keeps the smallest set of tokens with this total probability."""
    stream: bool | None = False
    top_k: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Keeps the k most likely tokens; 0: all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Keeps tokens with at least this share of the top token's probability."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    """Seed of sampling; a negative one is read modulo 2^64."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Subtracted from the logits of tokens that occurred."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Subtracted from the logit of a token for each of its occurrences."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    """Divides positive logits of tokens that occurred, and multiplies negative ones."""
    penalty_context_size: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Number of last tokens that penalties consider, of prompt and answer; 0: all."""
    penalize_generated_only: bool | None = None
    """Penalties consider generated tokens only."""
    logit_bias: dict[TokenId, LogitBias] | None = Field(default=None, examples=[{"42": -100}])
    """Added to the logits of tokens by id, before penalties."""
    kv_bits: int | None = Field(default=None, ge=2, le=8)
    """Bits of the quantized KV cache: 2, 3, 4, 5, 6 or 8; default: not quantized."""
    kv_group_size: int | None = Field(default=None, ge=32, le=128)
    """Group size of the quantized KV cache: 32, 64 (default) or 128."""
    interventions: list[InterventionForm] | None = Field(default=None, examples=[EXAMPLES])
    """Edits of activations during generation, in the order in which they apply."""

    @property
    @abstractmethod
    def prompts(self) -> PromptLike:
        """The prompts in the SDK's form."""

    @property
    @abstractmethod
    def max_tokens_param(self) -> tuple[str, int | None]:
        """The parameter that limits generated tokens, and its value."""

    @property
    def choice_count(self) -> int:
        """Number of choices for each prompt."""
        return 1

    @property
    def top_logprob_count(self) -> int | None:
        """Number of alternatives for each token; None without log-probabilities."""
        return None

    @property
    def stop_texts(self) -> list[str] | None:
        """Stop texts."""
        return None

    @property
    def json_schema(self) -> inference_pb2.JsonSchema | None:
        """The schema that the text must satisfy; None: any text."""
        return None

    @property
    def json_schema_param(self) -> str:
        """The parameter that has the schema."""
        return "json_schema"

    @abstractmethod
    def prompt_param(self, field: str) -> str:
        """The parameter of this request for a field of the contract's prompts."""

    def sampling(self) -> dict[str, Any]:
        """The keyword arguments of `AsyncClient.generate` that the request sets."""
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
            "json_schema": self.json_schema,
            "kv_bits": self.kv_bits,
            "kv_group_size": self.kv_group_size,
            # at least 1: alternatives carry the texts of tokens
            "top_logprobs": None if self.top_logprob_count is None else max(1, self.top_logprob_count),
        }
        return {name: value for name, value in wanted.items() if value is not None}


class ChoicesRequest(GenerationRequest):
    """A request whose response is a list of choices."""

    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    """Number of choices; choice i samples with `seed` + i."""
    stop: StopTexts = None
    """Stop texts; they are not part of the answer."""
    stream_options: StreamOptions | None = None
    user: Text | None = None
    """Accepted and ignored."""

    @property
    def choice_count(self) -> int:
        """Number of choices for each prompt."""
        return self.n or 1

    @property
    def stop_texts(self) -> list[str] | None:
        """Stop texts."""
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
