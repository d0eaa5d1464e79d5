"""Responses: the part of OpenAI's newest route that a service without a memory or tools can keep. Text in, text out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text
from neuroscope_gateway.schemas.generation import GenerationRequest, Metadata
from neuroscope_gateway.schemas.unsupported import Unsupported

_PARTS = ("input_text", "output_text")


def _joined_text(value: Any) -> Any:
    """Text parts as one text; what an answer's parts have besides is dropped."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in cast("list[Any]", value):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        text = fields.get("text")
        if fields.get("type") not in _PARTS or not isinstance(text, str):
            raise PydanticCustomError(INVALID, "Content parts must have the type 'input_text' and a text")
        texts.append(text)
    return "".join(texts)


def _input_tag(value: Any) -> str:
    return "<messages>" if isinstance(value, list) else "<text>"


class InputPart(TypedDict):
    """A part of a message."""

    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(StrictModel):
    """One message, of the user or of an earlier answer."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; developer is read as system."""
    content: Annotated[Text, BeforeValidator(_joined_text, json_schema_input_type=str | list[InputPart])]
    """The text, or a list of text parts."""
    type: Literal["message"] = "message"
    id: Text | None = None
    """Of an earlier answer; without effect."""
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    """Of an earlier answer; without effect."""

    @property
    def template_role(self) -> str:
        """The role as chat templates know it."""
        return "system" if self.role == "developer" else self.role


class ResponseRequest(GenerationRequest):
    """A response as OpenAI's clients ask for it; nothing is stored, no tool is called."""

    input: Annotated[
        Annotated[Text, Field(min_length=1), Tag("<text>")]
        | Annotated[list[InputMessage], Field(min_length=1), Tag("<messages>")],
        Discriminator(_input_tag),
    ] = Field(examples=["What is the capital of France?"])
    """What the user says, or the messages of a conversation."""
    instructions: Text | None = None
    """A system message before the input."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_INT32)
    """Most tokens to generate; absent: the server's default."""

    # Without effect on the answer.
    metadata: Metadata | None = None
    """Given back as it is."""
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Text | None = None
    parallel_tool_calls: bool | None = None

    # With an effect that this service does not have.
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
        """The conversation."""
        said = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        first = [] if self.instructions is None else [InputMessage(role="system", content=self.instructions)]
        return [{"role": message.template_role, "content": message.content} for message in [*first, *said]]

    @property
    def max_tokens_param(self) -> tuple[str, int | None]:
        """Most tokens to generate."""
        return "max_output_tokens", self.max_output_tokens

    def prompt_param(self, field: str) -> str:
        """Always `input`: instructions and input are one prompt."""
        return "input"


class OutputText(BaseModel):
    """What was answered."""

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
    """Always 0: what a service may have read before is not told."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """Always 0: all tokens are text."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens read and written."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why an answer is not complete."""

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
