"""Chat completions in OpenAI's format: the completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from neuroscope.vocabulary.tools import ToolCall
from neuroscope_gateway.generation.text_generation import TextGeneration, TokenDelta


async def chat_completion(generation: TextGeneration, *, logprobs: bool) -> dict[str, Any]:
    """The `chat.completion` object, after the generation."""
    answer, _ = await _collect(generation, logprobs=logprobs)
    return answer


async def chat_completion_with_activations(generation: TextGeneration, *, logprobs: bool) -> dict[str, Any]:
    """The `chat.completion` object with `activations`: the tensors of each hook id in step order."""
    answer, captured = await _collect(generation, logprobs=logprobs)
    return answer | {"activations": captured} | _capture_id(generation)


async def chat_completion_chunks(
    generation: TextGeneration, *, include_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The `chat.completion.chunk` objects of a stream: roles, texts, tool calls, finish reasons, usage."""
    extra = {"usage": None} if include_usage else {}
    rows = [_RowState() for _ in range(generation.rows)]
    for index in range(generation.rows):
        yield _chunk(generation, index, {"role": "assistant", "content": ""}) | extra
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            content = rows[delta.row].content(delta)
            if delta.text or delta.logprob is not None or delta.tool_calls:
                yield _chunk(generation, delta.row, content, delta) | extra
    for index, row in enumerate(rows):
        yield _chunk(generation, index, {}, finish_reason=row.finish_reason) | extra
    if include_usage:
        yield _envelope(generation, "chat.completion.chunk") | {"choices": [], "usage": generation.usage}


async def activation_lines(generation: TextGeneration) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of a stream with activations: one for each token, then the finish reasons and the usage."""
    roles = [{"role": "assistant"}] * generation.rows
    rows = [_RowState() for _ in range(generation.rows)]
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            index = delta.row
            yield _chunk(generation, index, roles[index] | rows[index].content(delta), delta) | {
                "activations": delta.activations
            }
            roles[index] = {}
    for index, row in enumerate(rows):
        end: dict[str, Any] = _chunk(generation, index, roles[index], finish_reason=row.finish_reason)
        end |= {"activations": {}}
        yield end | ({"usage": generation.usage} | _capture_id(generation) if index == generation.rows - 1 else {})


@dataclass(slots=True)
class _RowState:
    """What a stream has sent of one choice."""

    reason: str = "stop"
    call_count: int = 0

    def content(self, delta: TokenDelta) -> dict[str, Any]:
        """The `delta` of a token."""
        self.reason = delta.finish_reason or self.reason
        first = self.call_count
        self.call_count += len(delta.tool_calls)
        calls = [{"index": first + index} | _call(call) for index, call in enumerate(delta.tool_calls)]
        return {"content": delta.text} | ({"tool_calls": calls} if calls else {})

    @property
    def finish_reason(self) -> str:
        """Why the choice ended."""
        return _finish_reason(self.reason, has_calls=self.call_count > 0)


def _finish_reason(reason: str, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and reason == "stop" else reason


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _capture_id(generation: TextGeneration) -> dict[str, str]:
    return {} if generation.capture_id is None else {"capture_id": generation.capture_id}


@dataclass(slots=True)
class _ChoiceState:
    """One choice while it grows."""

    texts: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish_reason: str = "stop"

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message."""
        text = "".join(self.texts)
        if not self.tool_calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": text if text.strip() else None, "tool_calls": self.tool_calls}


async def _collect(
    generation: TextGeneration, *, logprobs: bool
) -> tuple[dict[str, Any], dict[str, list[orjson.Fragment]]]:
    answers = [_ChoiceState() for _ in range(generation.rows)]
    captured: dict[str, list[orjson.Fragment]] = {}
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            answer = answers[delta.row]
            answer.texts.append(delta.text)
            answer.tool_calls += map(_call, delta.tool_calls)
            answer.finish_reason = delta.finish_reason or answer.finish_reason
            if delta.logprob is not None:
                answer.logprobs.append(delta.logprob)
            for hook_id, pieces in delta.activations.items():
                captured.setdefault(hook_id, []).extend(pieces)
    choices = [
        {
            "index": index,
            "message": answer.message,
            "logprobs": {"content": answer.logprobs, "refusal": None} if logprobs else None,
            "finish_reason": _finish_reason(answer.finish_reason, has_calls=bool(answer.tool_calls)),
        }
        for index, answer in enumerate(answers)
    ]
    return _envelope(generation, "chat.completion") | {"choices": choices, "usage": generation.usage}, captured


def _chunk(
    generation: TextGeneration,
    row: int,
    content: dict[str, Any],
    delta: TokenDelta | None = None,
    *,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    entries = None if delta is None or delta.logprob is None else {"content": [delta.logprob], "refusal": None}
    choice = {"index": row, "delta": content, "logprobs": entries, "finish_reason": finish_reason}
    return _envelope(generation, "chat.completion.chunk") | {"choices": [choice]}


def _envelope(generation: TextGeneration, kind: str) -> dict[str, Any]:
    return {"id": generation.id, "object": kind, "created": generation.created, "model": generation.model}
