"""A turn as the JSON objects of a chat: the whole completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from neuroscope_gateway.turn import Delta, Turn


async def whole(turn: Turn, *, logprobs: bool) -> dict[str, Any]:
    """The `chat.completion` object, once the turn has ended."""
    answer, _ = await _collect(turn, logprobs=logprobs)
    return answer


async def whole_with_activations(turn: Turn, *, logprobs: bool) -> dict[str, Any]:
    """The same with `activations`: for every hook id its tensors in step order."""
    answer, captured = await _collect(turn, logprobs=logprobs)
    return answer | {"activations": captured} | _kept(turn)


async def chunks(turn: Turn, *, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    """The `chat.completion.chunk` objects of a stream: the roles, the texts as they come, the ends, the usage."""
    extra = {"usage": None} if include_usage else {}
    for row in range(turn.rows):
        yield _chunk(turn, row, {"role": "assistant", "content": ""}) | extra
    reasons = ["stop"] * turn.rows
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            reasons[delta.row] = delta.finish_reason or reasons[delta.row]
            if delta.text or delta.logprob is not None:
                yield _chunk(turn, delta.row, {"content": delta.text}, delta) | extra
    for row, reason in enumerate(reasons):
        yield _chunk(turn, row, {}, finish_reason=reason) | extra
    if include_usage:
        yield _head(turn, "chat.completion.chunk") | {"choices": [], "usage": turn.usage}


async def lines(turn: Turn) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of the stream with activations: one for every token, then the end with the usage."""
    roles = [{"role": "assistant"}] * turn.rows
    reasons = ["stop"] * turn.rows
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            row = delta.row
            reasons[row] = delta.finish_reason or reasons[row]
            yield _chunk(turn, row, roles[row] | {"content": delta.text}, delta) | {"activations": delta.activations}
            roles[row] = {}
    for row, reason in enumerate(reasons):
        end: dict[str, Any] = _chunk(turn, row, roles[row], finish_reason=reason) | {"activations": {}}
        yield end | ({"usage": turn.usage} | _kept(turn) if row == turn.rows - 1 else {})


def _kept(turn: Turn) -> dict[str, str]:
    return {} if turn.capture_id is None else {"capture_id": turn.capture_id}


@dataclass(slots=True)
class _Answer:
    """What is collected of one choice."""

    texts: list[str] = field(default_factory=list[str])
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish_reason: str = "stop"


async def _collect(turn: Turn, *, logprobs: bool) -> tuple[dict[str, Any], dict[str, list[orjson.Fragment]]]:
    answers = [_Answer() for _ in range(turn.rows)]
    captured: dict[str, list[orjson.Fragment]] = {}
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            answer = answers[delta.row]
            answer.texts.append(delta.text)
            answer.finish_reason = delta.finish_reason or answer.finish_reason
            if delta.logprob is not None:
                answer.entries.append(delta.logprob)
            for hook_id, pieces in delta.activations.items():
                captured.setdefault(hook_id, []).extend(pieces)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(answer.texts)},
            "logprobs": {"content": answer.entries, "refusal": None} if logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return _head(turn, "chat.completion") | {"choices": choices, "usage": turn.usage}, captured


def _chunk(
    turn: Turn, row: int, content: dict[str, str], delta: Delta | None = None, *, finish_reason: str | None = None
) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    entries = None if delta is None or delta.logprob is None else {"content": [delta.logprob], "refusal": None}
    choice = {"index": row, "delta": content, "logprobs": entries, "finish_reason": finish_reason}
    return _head(turn, "chat.completion.chunk") | {"choices": [choice]}


def _head(turn: Turn, kind: str) -> dict[str, Any]:
    return {"id": turn.id, "object": kind, "created": turn.created, "model": turn.model}
