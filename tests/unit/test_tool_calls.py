"""Tool calls in generated text.  Run: .venv/bin/python -m pytest tests/unit/test_tool_calls.py"""

import json
from functools import partial
from typing import Any

import pytest
from mlx_lm.tool_parsers import json_tools, mistral

from neuroscope_inference.engine.tool_calls.parser import ToolCallParser
from neuroscope_inference.engine.tool_calls.tool_format import ToolFormat, parse_llama3

HERMES = ToolFormat("<tool_call>", "</tool_call>", json_tools.parse_tool_call)
MISTRAL = ToolFormat("[TOOL_CALLS]", "", partial(mistral.parse_tool_call, tools=None), short_ids=True)
LLAMA3 = ToolFormat("", "", parse_llama3)
CALL = '{"name": "f", "arguments": {"a": "\u00e9}"}}'
F: Any = ("f", {"a": "\u00e9}"})

CASES: dict[str, tuple[ToolFormat, str, str, list[Any]]] = {
    "a call": (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [F]),
    "text before": (HERMES, f"Well: <tool_call>{CALL}</tool_call>", "Well: ", [F]),
    "two calls": (HERMES, f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\n", "", [F, F]),
    "text after": (HERMES, f"<tool_call>{CALL}</tool_call>\n\nSo.", "So.", [F]),
    "no end": (HERMES, f"<tool_call>{CALL}", "", [F]),
    "arguments as text": (HERMES, '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", {})]),
    "no arguments": (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", {})]),
    "cut off": (HERMES, 'a <tool_call>{"name": "f', 'a <tool_call>{"name": "f', []),
    "no JSON": (HERMES, "<tool_call>f()</tool_call> b", "<tool_call>f()</tool_call> b", []),
    "no name": (HERMES, "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
    "a list": (HERMES, "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
    "nearly a call": (HERMES, "a <tool_ b <", "a <tool_ b <", []),
    "Mistral": (MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]", "", [F, F]),
    "Mistral named": (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "", [("f", {"a": 1}), ("g", {})]),
    "Mistral text": (MISTRAL, "Hello.", "Hello.", []),
    "Llama": (LLAMA3, '{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    "Llama with a tag": (LLAMA3, ' <|python_tag|>{"name": "f", "parameters": {}}', "", [("f", {})]),
    "two of Llama": (
        LLAMA3,
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        "",
        [("f", {}), ("g", {})],
    ),
    "Llama text": (LLAMA3, 'Use {"name": "f"}.', 'Use {"name": "f"}.', []),
    "Llama JSON": (LLAMA3, '{"answer": 4}', '{"answer": 4}', []),
    "nearly a tag": (LLAMA3, "<|pytho", "<|pytho", []),
    "nothing": (LLAMA3, "", "", []),
}


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", CASES)
def test_calls_are_found_however_the_text_is_cut(name: str, size: int) -> None:
    tool_format, written, text, calls = CASES[name]
    parser = ToolCallParser(tool_format)
    pieces = [parser.feed(written[first : first + size]) for first in range(0, len(written), size)]
    pieces.append(parser.flush())
    assert "".join(piece for piece, _ in pieces) == text
    found = [call for _, some in pieces for call in some]
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls
    assert len({call.id for call in found}) == len(found)
    for call in found:
        assert len(call.id) == 9 if tool_format.short_ids else call.id.startswith("call_")


def test_text_before_a_call_is_not_held_back() -> None:
    parser = ToolCallParser(HERMES)
    assert parser.feed("Well <") == ("Well ", [])
    assert parser.feed("b> <tool") == ("<b> ", [])
    assert parser.feed("_call>" + CALL) == ("", [])
    text, calls = parser.feed("</tool_call> x")
    assert (text, len(calls)) == ("x", 1)
