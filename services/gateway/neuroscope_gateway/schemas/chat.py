"""Chat completions in OpenAI's format, and their activations."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, Text
from neuroscope_gateway.schemas.generation import ChoicesRequest, Metadata
from neuroscope_gateway.schemas.hooks import HookOrId
from neuroscope_gateway.schemas.messages import ConversationMessage, text_joiner
from neuroscope_gateway.schemas.response_format import JsonSchemaFormat, ResponseFormat, schema_message
from neuroscope_gateway.schemas.unsupported import Unsupported
from neuroscope_gateway.schemas.usage import Usage

ActivationFormat = Literal["list", "base64", "metadata"]
CAPTURE_ID = r"^[A-Za-z0-9._:-]{1,128}$"
_MESSAGE = re.compile(r"messages\[\d+\](\.role|\.content)?")


class TextPart(TypedDict):
    """One text part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(ConversationMessage):
    """One message of the conversation."""

    content: Annotated[Text, BeforeValidator(text_joiner("text"), json_schema_input_type=str | list[TextPart])]
    """The text, or a list of text parts."""
    name: Annotated[Any, Unsupported()] = None
    refusal: Annotated[Any, Unsupported()] = None
    audio: Annotated[Any, Unsupported()] = None
    annotations: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported()] = None
    tool_calls: Annotated[Any, Unsupported([])] = None


class ChatCompletionRequest(ChoicesRequest):
    """A chat completion: OpenAI's parameters and those of `GenerationRequest`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Maximum number of generated tokens; default: the service's."""
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """The deprecated name of max_completion_tokens."""
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Number of most likely alternatives for each token; needs `logprobs`."""
    response_format: ResponseFormat | None = None
    """Enforced while tokens are drawn. An answer that ends at the token limit or with a stop text is a beginning of
    JSON; its finish_reason is `length` or `stop`."""

    # Accepted and ignored.
    metadata: Metadata | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # Accepted at neutral values only.
    store: Annotated[Any, Unsupported(False)] = None
    modalities: Annotated[Any, Unsupported(["text"])] = None
    tools: Annotated[Any, Unsupported([])] = None
    tool_choice: Annotated[Any, Unsupported("none", "auto")] = None
    functions: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported("none", "auto")] = None
    audio: Annotated[Any, Unsupported()] = None
    reasoning_effort: Annotated[Any, Unsupported()] = None
    verbosity: Annotated[Any, Unsupported("medium")] = None
    web_search_options: Annotated[Any, Unsupported()] = None

    @model_validator(mode="after")
    def _check_consistency(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(INVALID, "This needs logprobs: true", {"param": "top_logprobs"})
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise PydanticCustomError(INVALID, "This and max_completion_tokens differ", {"param": "max_tokens"})
        return self

    @property
    def prompts(self) -> PromptLike:
        """The messages as a prompt of the SDK."""
        return [{"role": message.template_role, "content": message.content} for message in self.messages]

    @property
    def max_tokens_param(self) -> tuple[str, int | None]:
        """The parameter that limits generated tokens, and its value."""
        if self.max_tokens is None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    @property
    def json_schema(self) -> inference_pb2.JsonSchema | None:
        """The schema that the answer must satisfy; None: any text."""
        return schema_message(self.response_format)

    @property
    def json_schema_param(self) -> str:
        """The parameter that has the schema."""
        is_own = isinstance(self.response_format, JsonSchemaFormat)
        return "response_format.json_schema.schema" if is_own else "response_format"

    @property
    def top_logprob_count(self) -> int | None:
        """Number of alternatives for each token; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def prompt_param(self, field: str) -> str:
        """Turns `prompts[0].chat.messages[0].role` into `messages[0].role`."""
        match = _MESSAGE.search(field)
        return match[0] if match else "messages"


class ActivationCompletionRequest(ChatCompletionRequest):
    """A chat completion that also captures activations."""

    activation_hooks: list[HookOrId] | None = None
    """Hooks: objects, or ids of registered hooks."""
    activation_format: ActivationFormat | None = "list"
    """The encoding of values: `list` (nested lists), `base64` (little-endian, row-major, in `dtype`), or `metadata`
    (no values, but a `url` that returns them)."""
    capture_id: Annotated[Text, Field(pattern=CAPTURE_ID)] | None = None
    """Keeps the stream under this id for `/v1/activations/captures/{capture_id}`. `metadata` always keeps it, by
    default under the completion's id."""

    @property
    def format(self) -> ActivationFormat:
        """The encoding of values."""
        return self.activation_format or "list"


class Message(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class TokenLogprob(BaseModel):
    """A token and its log-probability (natural logarithm) before bias, penalties and filters."""

    token: str
    logprob: float
    bytes: list[int] | None


class GeneratedTokenLogprob(TokenLogprob):
    """A generated token."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """Log-probabilities of the generated tokens."""

    content: list[GeneratedTokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """A finished choice."""

    index: int
    message: Message
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class CapturedActivation(BaseModel):
    """One tensor of one step, or one piece of it if the prefill ran in chunks."""

    hook_id: str
    layer_name: str
    component: str
    shape: list[int]
    dtype: str
    """The captured type. A `list` has the same values of bfloat16 and float16 in float32."""
    is_input: bool
    data: list[Any] | str | None
    """Nested lists, base64, or null."""
    reduced: str = ""
    """The reduction, such as top_features or top_features_indices; absent: the activation itself."""
    url: str = ""
    """The path that returns the bytes, with `metadata`."""
    choice: int = 0
    """The index of the choice, if `n` is above 1."""


class ActivationCompletion(ChatCompletion):
    """A chat completion and its activations by hook id, in step order."""

    capture_id: str | None = None
    """The id of the kept stream; absent if it is not kept."""
    activations: dict[str, list[CapturedActivation]]
