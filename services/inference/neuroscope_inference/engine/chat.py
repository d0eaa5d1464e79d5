"""Conversations through a tokenizer's chat template, with tools and tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import inference_pb2 as pb

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)


class ChatRenderer:
    """Renders conversations.

    Args:
        tokenizer: has the template.
        model_id: of the model, named in errors.
    """

    def __init__(self, tokenizer: TokenizerWrapper, model_id: str) -> None:
        self._tokenizer = tokenizer
        self._model_id = model_id

    def token_ids(self, chat: pb.Chat, field: str) -> list[int]:
        """Token ids of a conversation.

        Args:
            chat: the conversation.
            field: its path in the request.

        Raises:
            InvalidRequestError: there is no template, it refuses the messages, or it leaves out tools or tool calls.
        """
        if not chat.messages:
            raise InvalidRequestError("there are no messages", field=f"{field}.messages")
        if not self._tokenizer.has_chat_template:
            raise InvalidRequestError(
                f"{self._model_id} has no chat template; send the prompt as text", field=f"{field}.messages"
            )
        messages = [_message(message, f"{field}.messages[{index}]") for index, message in enumerate(chat.messages)]
        tools = [_tool(tool, f"{at}.parameters") for at, tool in offered_tools(chat, field)]
        self._check_tools(messages, tools, field)
        self._check_tool_calls(messages, tools, field)
        return list(self._render(messages, tools, field, add_generation_prompt=not chat.omit_generation_prompt))

    def _check_tools(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], field: str) -> None:
        """Refuses tools that the template leaves out."""
        if tools and self._text(messages, tools) == self._text(messages, []):
            raise InvalidRequestError(
                f"the chat template of {self._model_id} has no tools; describe them in a message",
                field=f"{field}.tools",
            )

    def _check_tool_calls(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], field: str) -> None:
        """Refuses tool calls of messages that the template leaves out."""
        calling = [index for index, message in enumerate(messages) if "tool_calls" in message]
        if not calling:
            return
        without = [{key: message[key] for key in message if key != "tool_calls"} for message in messages]
        if self._text(messages, tools) == self._text(without, tools):
            raise InvalidRequestError(
                f"the chat template of {self._model_id} has no tool calls; write them into the content",
                field=f"{field}.messages[{calling[0]}].tool_calls",
            )

    def _text(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str | None:
        """The rendered text; None where the template refuses."""
        try:
            return self._tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False)
        except _TEMPLATE_ERRORS:
            return None

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], field: str, **options: bool
    ) -> list[int]:
        try:
            return self._tokenizer.apply_chat_template(messages, tools=tools or None, **options)
        except _TEMPLATE_ERRORS as error:
            roles = ", ".join(sorted({message["role"] for message in messages}))
            raise InvalidRequestError(
                f"the chat template refuses these messages (roles: {roles}): {error}", field=f"{field}.messages"
            ) from error


def offered_tools(chat: pb.Chat, field: str) -> list[tuple[str, pb.Tool]]:
    """Field and tool of those that the model may call; none with the choice `none`.

    Raises:
        InvalidRequestError: a tool is malformed, or the choice names none of them.
    """
    if len(chat.tools) > MAX_TOOLS:
        raise InvalidRequestError(f"at most {MAX_TOOLS} tools", field=f"{field}.tools")
    names: list[str] = []
    for index, tool in enumerate(chat.tools):
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequestError(
                f"the name of a tool has 1 to 64 letters, digits, underscores and hyphens, not {tool.name!r}",
                field=f"{field}.tools[{index}].name",
            )
        if tool.name in names:
            raise InvalidRequestError(f"two tools are named {tool.name}", field=f"{field}.tools[{index}].name")
        names.append(tool.name)
    choice, at = chat.tool_choice, f"{field}.tool_choice"
    if choice.mode not in pb.ToolChoiceMode.values():
        raise InvalidRequestError(f"the contract has no mode {choice.mode}", field=f"{at}.mode")
    if choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED and not names:
        raise InvalidRequestError("a required call needs tools", field=f"{at}.mode")
    if choice.name and (choice.mode != pb.TOOL_CHOICE_MODE_REQUIRED or choice.name not in names):
        reason = "the choice has a name only if a call is required"
        if choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED:
            reason = f"there is no tool {choice.name!r}"
        raise InvalidRequestError(reason, field=f"{at}.name", valid=nearest(choice.name, names))
    tools = [(f"{field}.tools[{index}]", tool) for index, tool in enumerate(chat.tools)]
    return [] if choice.mode == pb.TOOL_CHOICE_MODE_NONE else tools


def _tool(tool: pb.Tool, field: str) -> dict[str, Any]:
    """A tool as chat templates know it."""
    parameters = _object(tool.parameters, field) if tool.parameters else {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _message(message: pb.ChatMessage, field: str) -> dict[str, Any]:
    """A message as chat templates know it: arguments of calls are objects."""
    if not message.role:
        raise InvalidRequestError("the message has no role", field=f"{field}.role")
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        written["tool_calls"] = _calls(message.tool_calls, field)
    if message.tool_call_id:
        written["tool_call_id"] = message.tool_call_id
    if message.name:
        written["name"] = message.name
    return written


def _calls(calls: Sequence[pb.ToolCall], field: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for index, call in enumerate(calls):
        at = f"{field}.tool_calls[{index}]"
        if not call.name:
            raise InvalidRequestError("the call has no name", field=f"{at}.name")
        arguments = _object(call.arguments or "{}", f"{at}.arguments")
        function = {"name": call.name, "arguments": arguments}
        written.append({"type": "function", "id": call.id, "function": function})
    return written


def _object(text: str, field: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"this is no JSON: {error}", field=field) from error
    if not isinstance(value, Mapping):
        raise InvalidRequestError("a JSON object is wanted", field=field)
    return dict(cast("Mapping[str, Any]", value))
