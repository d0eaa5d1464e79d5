"""Chat completions in OpenAI's format, and their activations."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text
from neuroscope_gateway.schemas.generation import ChoicesRequest, Metadata
from neuroscope_gateway.schemas.hooks import HookOrId
from neuroscope_gateway.schemas.messages import template_role, text_joiner
from neuroscope_gateway.schemas.response_format import JsonSchemaFormat, ResponseFormat, schema_message
from neuroscope_gateway.schemas.tools import RequestedToolCall, Tool, ToolCall, ToolChoice, ToolChoiceParameter
from neuroscope_gateway.schemas.unsupported import UNSUPPORTED_PARAMETER, Unsupported
from neuroscope_gateway.schemas.usage import Usage

ActivationFormat = Literal["list", "base64", "metadata"]
CAPTURE_ID = r"^[A-Za-z0-9._:-]{1,128}$"
_CHAT_FIELD = re.compile(r"\.chat\.(messages\[\d+\]|tools\[\d+\]|messages|tools|tool_choice)(\.[^.]+)?(\.[^.]+)?")


class TextPart(TypedDict):
    """One text part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """The role; `developer` is read as `system`. A `tool` message has the result of a call."""
    content: Annotated[
        Text | None, BeforeValidator(text_joiner("text"), json_schema_input_type=str | list[TextPart] | None)
    ]
    """The text, or a list of text parts; null for an assistant without text."""
    tool_calls: list[RequestedToolCall] | None = None
    """Calls that the assistant made."""
    tool_call_id: Text | None = None
    """The call that a `tool` message answers."""
    name: Text | None = None
    """The function of a `tool` message."""
    refusal: Annotated[Any, Unsupported()] = None
    audio: Annotated[Any, Unsupported()] = None
    annotations: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported()] = None

    @model_validator(mode="before")
    @classmethod
    def _default_content(cls, value: Any) -> Any:
        """An assistant's message with calls may have no content at all."""
        if isinstance(value, dict) and "content" not in value:
            fields = cast("dict[str, Any]", value)
            if fields.get("role") == "assistant" and fields.get("tool_calls"):
                return fields | {"content": None}
        return cast("Any", value)

    @model_validator(mode="after")
    def _check_role(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError(INVALID, "Only an assistant's content may be null", {"param": "content"})
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError(INVALID, "Only an assistant calls tools", {"param": "tool_calls"})
        if (self.role == "tool") != (self.tool_call_id is not None):
            message = "A tool message needs it, and no other has it"
            raise PydanticCustomError(INVALID, message, {"param": "tool_call_id"})
        if self.name is not None and self.role != "tool":
            message = "This parameter is not supported; leave it out"
            raise PydanticCustomError(UNSUPPORTED_PARAMETER, message, {"param": "name"})
        return self

    @property
    def message(self) -> dict[str, Any]:
        """The message in the SDK's form."""
        calls = [call.model_dump(include={"id", "type", "function"}) for call in self.tool_calls or ()]
        optional = {"tool_calls": calls, "tool_call_id": self.tool_call_id, "name": self.name}
        written = {"role": template_role(self.role), "content": self.content or ""}
        return written | {name: value for name, value in optional.items() if value}


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
    tools: list[Tool] | None = None
    """Functions that the model may call; the chat template must know tools."""
    tool_choice: ToolChoiceParameter | None = None
    """Default: `auto`, the model decides. `required` and a function are enforced while tokens are drawn."""
    parallel_tool_calls: bool | None = True
    """Without it the answer ends with its first call."""

    # Accepted and ignored.
    metadata: Metadata | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None
    prediction: dict[str, Any] | None = None

    # Accepted at neutral values only.
    store: Annotated[Any, Unsupported(False)] = None
    modalities: Annotated[Any, Unsupported(["text"])] = None
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
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise PydanticCustomError(INVALID, "This needs tools", {"param": "tool_choice"})
        return self

    def sampling(self) -> dict[str, Any]:
        """The keyword arguments of `AsyncClient.generate` that the request sets."""
        if not self.tools:
            return super().sampling()
        choice = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else self.tool_choice
        return super().sampling() | {
            "tools": [tool.model_dump(exclude_none=True) for tool in self.tools],
            "tool_choice": {"function": {"name": choice}} if isinstance(self.tool_choice, ToolChoice) else choice,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
        }

    @property
    def prompts(self) -> PromptLike:
        """The messages as a prompt of the SDK."""
        return [message.message for message in self.messages]

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
        """Turns `prompts[0].chat.tools[1].parameters` into `tools[1].function.parameters`, OpenAI's path."""
        match = _CHAT_FIELD.search(field)
        if match is None:
            return "messages"
        where, part, rest = match[1], match[2] or "", match[3] or ""
        if where == "tool_choice":
            return where
        if where.startswith("tools") or part.startswith(".tool_calls"):
            own, name = (part, rest) if part.startswith(".tool_calls") else ("", part)
            return f"{where}{own}{'.function' if name else ''}{name}"
        return f"{where}{part}"


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
    content: str | None
    """null if there are tool calls alone."""
    tool_calls: list[ToolCall] | None = None
    """Absent without calls."""


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
    finish_reason: Literal["stop", "length", "tool_calls"]


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
