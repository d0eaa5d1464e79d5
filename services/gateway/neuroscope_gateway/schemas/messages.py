"""Roles of messages, and their text parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic_core import PydanticCustomError

from neuroscope.vocabulary.strict_model import INVALID


def template_role(role: str) -> str:
    """The role in chat templates: `developer` is read as `system`."""
    return "system" if role == "developer" else role


def text_joiner(*types: str, extra_fields: bool = False) -> Callable[[Any], Any]:
    """A validator that joins a list of text parts and leaves other values as they are.

    Args:
        types: accepted types of parts; the first one is named in errors.
        extra_fields: drops further fields of parts instead of rejecting them.
    """

    def join(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        texts: list[str] = []
        for part in cast("list[Any]", value):
            fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
            text = fields.get("text")
            is_exact = extra_fields or fields.keys() == {"type", "text"}
            if not is_exact or fields.get("type") not in types or not isinstance(text, str):
                message = "Content parts must have the type '{type}' and a text"
                raise PydanticCustomError(INVALID, message, {"type": types[0]})
            texts.append(text)
        return "".join(texts)

    return join
