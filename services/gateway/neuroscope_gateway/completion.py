"""A turn as JSON objects: the whole completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
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
    return answer | {"activations": captured}


async def chunks(turn: Turn, *, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    """The `chat.completion.chunk` objects of OpenAI's stream: the role, the text as it comes, the end, the usage."""
    extra = {"usage": None} if include_usage else {}
    yield _chunk(turn, {"role": "assistant", "content": ""}) | extra
    finish_reason = "stop"
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            finish_reason = delta.finish_reason or finish_reason
            if delta.text or delta.logprob is not None:
                yield _chunk(turn, {"content": delta.text}, delta) | extra
    yield _chunk(turn, {}, finish_reason=finish_reason) | extra
    if include_usage:
        yield _head(turn, "chat.completion.chunk") | {"choices": [], "usage": turn.usage}


async def lines(turn: Turn) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of the stream with activations: one for every token, then the end with the usage."""
    delta_of_role = {"role": "assistant"}
    finish_reason = "stop"
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            finish_reason = delta.finish_reason or finish_reason
            yield _chunk(turn, delta_of_role | {"content": delta.text}, delta) | {"activations": delta.activations}
            delta_of_role = {}
    end = _chunk(turn, delta_of_role, finish_reason=finish_reason)
    yield end | {"activations": {}, "usage": turn.usage}


async def _collect(turn: Turn, *, logprobs: bool) -> tuple[dict[str, Any], dict[str, list[orjson.Fragment]]]:
    texts: list[str] = []
    entries: list[dict[str, Any]] = []
    captured: dict[str, list[orjson.Fragment]] = {}
    finish_reason = "stop"
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            texts.append(delta.text)
            finish_reason = delta.finish_reason or finish_reason
            if delta.logprob is not None:
                entries.append(delta.logprob)
            for hook_id, pieces in delta.activations.items():
                captured.setdefault(hook_id, []).extend(pieces)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(texts)},
        "logprobs": {"content": entries, "refusal": None} if logprobs else None,
        "finish_reason": finish_reason,
    }
    return _head(turn, "chat.completion") | {"choices": [choice], "usage": turn.usage}, captured


def _chunk(
    turn: Turn, content: dict[str, str], delta: Delta | None = None, *, finish_reason: str | None = None
) -> dict[str, Any]:
    """One `chat.completion.chunk`."""
    entries = None if delta is None or delta.logprob is None else {"content": [delta.logprob], "refusal": None}
    choice = {"index": 0, "delta": content, "logprobs": entries, "finish_reason": finish_reason}
    return _head(turn, "chat.completion.chunk") | {"choices": [choice]}


def _head(turn: Turn, kind: str) -> dict[str, Any]:
    return {"id": turn.id, "object": kind, "created": turn.created, "model": turn.model}
