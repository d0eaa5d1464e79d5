"""Tools that a model may call, in OpenAI's form, as messages of the contract.

{"type": "function", "function": {"name": "weather", "description": "...", "parameters": {...}, "strict": True}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb

ToolLike: TypeAlias = "Mapping[str, Any] | pb.Tool"
"""A tool."""
ToolChoiceLike: TypeAlias = "str | Mapping[str, Any]"
"""`auto`, `none`, `required`, or the only function that may be called: its name or OpenAI's object."""

_FUNCTION = ("name", "description", "parameters", "strict")
_MODES = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


class ToolCall(NamedTuple):
    """A call that the model wrote."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


def to_messages(tools: Iterable[ToolLike]) -> list[pb.Tool]:
    """The messages of tools.

    Raises:
        InvalidRequestError: a tool has another form; names it.
    """
    return [_to_message(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def to_choice(choice: ToolChoiceLike | None, *, parallel: bool = True) -> pb.ToolChoice | None:
    """The message of a choice; None where the model decides, and how often.

    Raises:
        InvalidRequestError: it has another form.
    """
    if choice is None:
        return None if parallel else pb.ToolChoice(single_call=True)
    if isinstance(choice, str) and choice in _MODES:
        return pb.ToolChoice(mode=_MODES[choice], single_call=not parallel)
    name: Any = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = cast("Mapping[str, Any]", function).get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(
            f"a tool choice is auto, none, required or a function, not {choice!r}", field="tool_choice"
        )
    return pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED, name=name, single_call=not parallel)


def to_calls(calls: Any, field: str) -> list[pb.ToolCall]:
    """The messages of an assistant's calls, which have OpenAI's form.

    Raises:
        InvalidRequestError: a call has another form; names it.
    """
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise InvalidRequestError("tool_calls is a list", field=field)
    found: list[pb.ToolCall] = []
    for index, call in enumerate(cast("Sequence[Any]", calls)):
        at = f"{field}[{index}]"
        if isinstance(call, pb.ToolCall):
            found.append(call)
            continue
        function = _function(call, at)
        arguments = function.get("arguments", "{}")
        text = arguments if isinstance(arguments, str) else _json(arguments, f"{at}.function.arguments")
        id = cast("Mapping[str, Any]", call).get("id", "")
        found.append(pb.ToolCall(id=id, name=function["name"], arguments=text))
    return found


def _to_message(tool: ToolLike, field: str) -> pb.Tool:
    if isinstance(tool, pb.Tool):
        return tool
    function = _function(tool, field)
    unknown = sorted(set(function) - set(_FUNCTION))
    if unknown:
        raise InvalidRequestError(
            f"unknown field {unknown[0]!r}; valid: {', '.join(_FUNCTION)}",
            field=f"{field}.function.{unknown[0]}",
            valid=_FUNCTION,
        )
    parameters = function.get("parameters")
    return pb.Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters="" if parameters is None else _json(parameters, f"{field}.function.parameters"),
        strict=bool(function.get("strict")),
    )


def _function(value: Any, field: str) -> Mapping[str, Any]:
    """The function of a tool or of a call."""
    function: Any = cast("Mapping[str, Any]", value).get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequestError(
            f"this is {{'type': 'function', 'function': {{'name', ...}}}}, not {value!r}", field=field
        )
    fields = cast("Mapping[str, Any]", function)
    if not isinstance(fields.get("name"), str):
        raise InvalidRequestError("the function has no name", field=f"{field}.function.name")
    return fields


def _json(value: Any, field: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"this is no JSON: {error}", field=field) from error
