"""Chat completions as OpenAI's clients ask for and read them, and their activations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from neuroscope.intervention_forms import InterventionForm
from neuroscope.strict import INVALID, MAX_INT32, Strict, Text
from neuroscope_gateway.schemas.hooks import HookOrId
from neuroscope_gateway.schemas.interventions import EXAMPLES
from neuroscope_gateway.schemas.neutral import Only


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _content(value: Any) -> Any:
    """Text parts as one text."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in cast("list[Any]", value):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        text = fields.get("text")
        if fields.keys() != {"type", "text"} or fields["type"] != "text" or not isinstance(text, str):
            raise PydanticCustomError(INVALID, "Content parts must have the type 'text' and a text")
        texts.append(text)
    return "".join(texts)


class TextPart(TypedDict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; developer is read as system."""
    content: Annotated[Text, BeforeValidator(_content, json_schema_input_type=str | list[TextPart])]
    """The text, or a list of text parts."""
    name: Annotated[Any, Only()] = None
    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None

    @property
    def speaker(self) -> str:
        """The role as chat templates know it."""
        return "system" if self.role == "developer" else self.role


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = False
    """Sends the token counts in a last chunk."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded."""


class ChatCompletionRequest(Strict):
    """A chat completion as OpenAI's clients ask for it, with top_k, min_p, kv_bits and interventions besides."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: Text | None = None
    """A loaded model; absent: the one that was loaded first."""
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Most tokens to generate; absent: the server's default."""
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """The older name of max_completion_tokens."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0, the default: always the likeliest token, so that captures can be repeated."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Keeps the smallest set of tokens whose probability reaches this."""
    top_k: int | None = Field(default=None, ge=0, le=MAX_INT32)
    """Keeps this many likeliest tokens; 0: all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Keeps tokens with at least this share of the likeliest token's probability."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    """Seed of the draws; a negative one is read modulo 2^64."""
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1)]] | None,
        BeforeValidator(_texts, json_schema_input_type=str | list[str] | None),
    ] = None
    """Texts that end the generation; they are not part of the answer."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Likeliest alternatives per token; needs logprobs."""
    kv_bits: int | None = Field(default=None, ge=2, le=8)
    """Keeps keys and values in so many bits: 2, 3, 4, 5, 6 or 8; absent: as they are."""
    kv_group_size: int | None = Field(default=None, ge=32, le=128)
    """Numbers that share a scale: 32, 64 (the default) or 128."""
    interventions: list[InterventionForm] | None = Field(default=None, examples=[EXAMPLES])
    """Edits of activations while the answer is computed, in the order in which they apply."""

    # Without effect on the answer.
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # With an effect that the engine does not have.
    n: Annotated[Any, Only(1)] = None
    store: Annotated[Any, Only(False)] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    logit_bias: Annotated[Any, Only({})] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    audio: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only()] = None

    @model_validator(mode="after")
    def _agree(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(INVALID, "This needs logprobs: true", {"param": "top_logprobs"})
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(INVALID, "This needs stream: true", {"param": "stream_options"})
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError(INVALID, "This and max_completion_tokens differ", {"param": "max_tokens"})
        return self


class ActivationCompletionRequest(ChatCompletionRequest):
    """A chat completion that captures activations on its way."""

    activation_hooks: list[HookOrId] | None = None
    """What to capture: hook objects, and ids of registered hooks."""


class Message(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class TokenLogprob(BaseModel):
    """A token and the natural logarithm of its probability, before temperature and filters."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob):
    """A generated token."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """Log-probabilities of the generated tokens."""

    content: list[ChosenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """A finished answer."""

    index: Literal[0] = 0
    message: Message
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class CapturedActivation(BaseModel):
    """One tensor of one step, or one piece of it where a prefill ran in chunks."""

    hook_id: str
    layer_name: str
    component: str
    shape: list[int]
    dtype: str
    """The type that was captured; bfloat16 and float16 stand in `data` as the float32 numbers of the same value."""
    is_input: bool
    data: list[Any]
    """Nested list of `shape`."""


class ActivationCompletion(ChatCompletion):
    """A chat completion and what its hooks saw, in step order."""

    activations: dict[str, list[CapturedActivation]]
