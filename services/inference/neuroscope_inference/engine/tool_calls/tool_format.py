"""How a model writes tool calls, by its chat template.

mlx-lm finds the format and parses its calls (`mlx_lm.tool_parsers`); Llama 3's JSON, which it does not know, is here.
Formats of JSON also have a grammar: calls that are required are enforced with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools, mistral

_LLAMA3 = 'Respond in the format {"name": function name, "parameters"'
_PYTHON_TAG = "<|python_tag|>"
_SEPARATORS = re.compile(r"[\s;,]*")


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """The text of calls around names and arguments. Markers are texts that may be special tokens."""

    before_calls: tuple[str, ...]
    before_name: tuple[str, ...]
    before_arguments: tuple[str, ...]
    after_arguments: tuple[str, ...]
    after_calls: tuple[str, ...] = ()
    separator: str | None = None
    """Between two calls; None: there is one call only."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How calls are written."""

    start: str
    """Precedes a call; empty: an answer that begins with `{` is one."""
    end: str
    """Follows a call; empty: the end of the answer."""
    parse: Callable[[str], Any]
    """Turns the text between them into a dict of `name` and `arguments`, or a list of these."""
    syntax: CallSyntax | None = None
    """None: calls cannot be enforced."""
    short_ids: bool = False
    """Ids have nine letters and digits, as the template wants them."""

    @classmethod
    def of(cls, tokenizer: TokenizerWrapper) -> ToolFormat | None:
        """The format of a tokenizer's chat template; None if it is not known."""
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
        parse, start = tokenizer.tool_parser, tokenizer.tool_call_start
        if parse is None or start is None:
            return cls("", "", parse_llama3, _LLAMA3_SYNTAX) if _LLAMA3 in template else None
        syntax = None
        if parse is json_tools.parse_tool_call:
            syntax = _HERMES_SYNTAX
        elif parse is mistral.parse_tool_call:
            syntax = _MISTRAL_NAMED_SYNTAX if "[ARGS]" in template else _MISTRAL_LIST_SYNTAX
        is_mistral = parse is mistral.parse_tool_call
        return cls(start, tokenizer.tool_call_end or "", partial(parse, tools=None), syntax, short_ids=is_mistral)


def parse_llama3(text: str) -> list[dict[str, Any]]:
    """Llama 3's calls: JSON objects of `name` and `parameters`.

    Raises:
        ValueError: the text is something else.
        KeyError: an object has no name or no parameters.
    """
    text = text.strip().removeprefix(_PYTHON_TAG)
    calls: list[dict[str, Any]] = []
    place = 0
    while place < len(text):
        call, place = json.JSONDecoder().raw_decode(text, place)
        calls.append({"name": call["name"], "arguments": call["parameters"]})
        separators = _SEPARATORS.match(text, place)
        place = separators.end() if separators else place
    return calls


def may_begin_call(text: str) -> bool | None:
    """Whether an answer that begins like this is a call, in the format without a start; None: not known yet."""
    text = text.lstrip()
    if not text or (len(text) < len(_PYTHON_TAG) and _PYTHON_TAG.startswith(text)):
        return None
    return text.startswith(("{", _PYTHON_TAG))


_HERMES_SYNTAX = CallSyntax(
    before_calls=(),
    before_name=("<tool_call>", '\n{"name": "'),
    before_arguments=('", "arguments": ',),
    after_arguments=("}\n", "</tool_call>"),
    separator="\n",
)
_MISTRAL_LIST_SYNTAX = CallSyntax(
    before_calls=("[TOOL_CALLS]", "["),
    before_name=('{"name": "',),
    before_arguments=('", "arguments": ',),
    after_arguments=("}",),
    after_calls=("]",),
    separator=", ",
)
_MISTRAL_NAMED_SYNTAX = CallSyntax(
    before_calls=(), before_name=("[TOOL_CALLS]",), before_arguments=("[ARGS]",), after_arguments=(), separator=""
)
_LLAMA3_SYNTAX = CallSyntax(
    before_calls=(), before_name=('{"name": "',), before_arguments=('", "parameters": ',), after_arguments=("}",)
)
