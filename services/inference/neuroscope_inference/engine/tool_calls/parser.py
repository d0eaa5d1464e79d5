"""Finds tool calls in the text of a row while it is generated."""

from __future__ import annotations

import json
import secrets
import string
import uuid
from collections.abc import Mapping
from typing import Any, cast

from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.stop_matcher import overlap
from neuroscope_inference.engine.tool_calls.tool_format import ToolFormat, may_begin_call

_SHORT_ID_LENGTH = 9


class ToolCallParser:
    """Takes text segments; gives out text that belongs to no call, and calls that are complete.

    What looks like a call and cannot be parsed stays text, as does a call that the end of the row cuts off.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._held = ""
        self._in_call = False
        self._decides = not tool_format.start
        self._follows_call = False

    def feed(self, segment: str) -> tuple[str, list[pb.ToolCall]]:
        """The text and the calls that became final with a segment."""
        self._held += segment
        texts: list[str] = []
        calls: list[pb.ToolCall] = []
        while self._next(texts, calls):
            pass
        return "".join(texts), calls

    def flush(self) -> tuple[str, list[pb.ToolCall]]:
        """The rest, when no more text comes."""
        held, self._held = self._held, ""
        if not self._in_call:
            return self._text(held), []
        self._in_call = False
        calls = self._parse(held)
        return ("", calls) if calls else (self._text(self._format.start + held), [])

    def _next(self, texts: list[str], calls: list[pb.ToolCall]) -> bool:
        """Takes what is complete from the text that is held; whether there may be more."""
        if self._decides:
            begins = may_begin_call(self._held)
            self._decides = begins is None
            self._in_call = bool(begins)
            if self._decides or begins:
                return False
        if not self._format.start and not self._in_call:
            texts.append(self._text(self._held))
            self._held = ""
            return False
        return self._next_in_call(texts, calls) if self._in_call else self._next_outside(texts)

    def _next_outside(self, texts: list[str]) -> bool:
        start = self._format.start
        place = self._held.find(start)
        if place >= 0:
            texts.append(self._text(self._held[:place]))
            self._held, self._in_call = self._held[place + len(start) :], True
            return True
        keep = overlap(self._held, start)
        final = len(self._held) - keep
        texts.append(self._text(self._held[:final]))
        self._held = self._held[final:]
        return False

    def _next_in_call(self, texts: list[str], calls: list[pb.ToolCall]) -> bool:
        end = self._format.end
        place = self._held.find(end) if end else -1
        if place < 0:
            return False
        written, self._held = self._held[:place], self._held[place + len(end) :]
        self._in_call = False
        found = self._parse(written)
        calls += found
        if not found:
            texts.append(self._text(self._format.start + written + end))
        return True

    def _text(self, text: str) -> str:
        """A text without the white space that follows a call."""
        if self._follows_call:
            text = text.lstrip()
            self._follows_call = not text
        return text

    def _parse(self, text: str) -> list[pb.ToolCall]:
        """The calls of a text; none if it is something else."""
        try:
            parsed = self._format.parse(text)
            listed = cast("list[Any]", parsed if isinstance(parsed, list) else [parsed])
            calls = [self._call(each) for each in listed]
        except Exception:  # a parser of mlx-lm may raise anything on what a model wrote
            return []
        self._follows_call = bool(calls)
        return calls

    def _call(self, parsed: Mapping[str, Any]) -> pb.ToolCall:
        name, arguments = parsed["name"], parsed.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            raise ValueError("a call has a name and an object of arguments")
        return pb.ToolCall(id=self._id(), name=name, arguments=json.dumps(arguments, ensure_ascii=False))

    def _id(self) -> str:
        if self._format.short_ids:
            return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_SHORT_ID_LENGTH))
        return f"call_{uuid.uuid4().hex[:24]}"
