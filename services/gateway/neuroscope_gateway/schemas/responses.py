"""OpenAI's Responses API, without stored responses and tools: text in, text out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag
from typing_extensions import TypedDict

from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel, Text
from neuroscope_gateway.schemas.generation import GenerationRequest, Metadata
from neuroscope_gateway.schemas.messages import template_role, text_joiner
from neuroscope_gateway.schemas.unsupported import Unsupported

_join_text = text_joiner("input_text", "output_text", extra_fields=True)


def _input_tag(value: Any) -> str:
    return "<messages>" if isinstance(value, list) else "<text>"


class InputPart(TypedDict):
    """One text part of a message."""

    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(StrictModel):
    """One message of the input, or an earlier output message."""

    role: Literal["system", "developer", "user", "assistant"]
    """The role; `developer` is read as `system`."""
    content: Annotated[Text, BeforeValidator(_join_text, json_schema_input_type=str | list[InputPart])]
    """The text, or a list of text parts."""
    type: Literal["message"] = "message"
    id: Text | None = None
    """Accepted and ignored."""
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    """Accepted and ignored."""


class ResponseRequest(GenerationRequest):
    """A response: OpenAI's parameters and those of `GenerationRequest`. Nothing is stored and no tool is called."""

    input: Annotated[
        Annotated[Text, Field(min_length=1), Tag("<text>")]
        | Annotated[list[InputMessage], Field(min_length=1), Tag("<messages>")],
        Discriminator(_input_tag),
    ] = Field(examples=["What is the capital of France?"])
    """A user message, or a list of messages."""
    instructions: Text | None = None
    """A system message that precedes the input."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Maximum number of generated tokens; default: the service's."""

    # Accepted and ignored.
    metadata: Metadata | None = None
    """Returned unchanged."""
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Text | None = None
    parallel_tool_calls: bool | None = None

    # Accepted at neutral values only.
    background: Annotated[Any, Unsupported(False)] = None
    conversation: Annotated[Any, Unsupported()] = None
    include: Annotated[Any, Unsupported([])] = None
    max_tool_calls: Annotated[Any, Unsupported()] = None
    previous_response_id: Annotated[Any, Unsupported()] = None
    prompt: Annotated[Any, Unsupported()] = None
    reasoning: Annotated[Any, Unsupported({})] = None
    store: Annotated[Any, Unsupported(False)] = None
    stream_options: Annotated[Any, Unsupported({})] = None
    text: Annotated[Any, Unsupported({}, {"format": {"type": "text"}})] = None
    tool_choice: Annotated[Any, Unsupported("none", "auto")] = None
    tools: Annotated[Any, Unsupported([])] = None
    top_logprobs: Annotated[Any, Unsupported(0)] = None
    truncation: Annotated[Any, Unsupported("disabled")] = None

    @property
    def prompts(self) -> PromptLike:
        """The messages as a prompt of the SDK."""
        said = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        first = [] if self.instructions is None else [InputMessage(role="system", content=self.instructions)]
        return [{"role": template_role(message.role), "content": message.content} for message in [*first, *said]]

    @property
    def max_tokens_param(self) -> tuple[str, int | None]:
        """The parameter that limits generated tokens, and its value."""
        return "max_output_tokens", self.max_output_tokens

    def prompt_param(self, field: str) -> str:
        """Always `input`, since instructions and input make one prompt."""
        return "input"


class OutputText(BaseModel):
    """A text of the output."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(BaseModel):
    """The answer."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputTokensDetails(BaseModel):
    """Always 0: cached tokens are not counted."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """Always 0: there are no reasoning tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseObject(BaseModel):
    """A response."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[OutputMessage]
    usage: ResponseUsage | None
    incomplete_details: IncompleteDetails | None
    error: None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    store: Literal[False]
    text: dict[str, Any]
    tool_choice: Literal["none"]
    tools: list[Any]
    truncation: Literal["disabled"]
