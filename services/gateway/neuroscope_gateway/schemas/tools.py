"""Tools of chat completions, and calls of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from neuroscope.vocabulary.strict_model import StrictModel, Text

FunctionName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""Letters, digits, underscores and hyphens; at most 64."""


class FunctionDefinition(StrictModel):
    """A function that the model may call."""

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; absent: there are none."""
    strict: bool | None = False
    """Where a call is enforced: refuses a keyword that cannot be enforced, instead of leaving it out."""


class Tool(StrictModel):
    """A tool."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionChoice(StrictModel):
    """The name of a function."""

    name: FunctionName


class ToolChoice(StrictModel):
    """The only function that is called."""

    type: Literal["function"]
    function: FunctionChoice


def _choice_tag(value: Any) -> str:
    return "<mode>" if isinstance(value, str) else "<function>"


ToolChoiceParameter = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")] | Annotated[ToolChoice, Tag("<function>")],
    Discriminator(_choice_tag),
]
"""Whether the model calls a tool, or which one."""


class RequestedFunctionCall(StrictModel):
    """The function and the arguments of an earlier call."""

    name: Annotated[Text, Field(min_length=1)]
    arguments: Text
    """A JSON object, as text."""


class RequestedToolCall(StrictModel):
    """An earlier call of the assistant."""

    id: Text
    type: Literal["function"] = "function"
    function: RequestedFunctionCall
    index: int | None = None
    """Accepted and ignored: clients that join chunks send it."""


class FunctionCall(BaseModel):
    """The function and the arguments of a call."""

    name: str
    arguments: str
    """A JSON object, as text."""


class ToolCall(BaseModel):
    """A call of the model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
