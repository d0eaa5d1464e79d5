"""Chat completions in OpenAI's format: the completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

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
    """The `chat.completion.chunk` objects of a stream: roles, texts, finish reasons, usage."""
    extra = {"usage": None} if include_usage else {}
    for row in range(generation.rows):
        yield _chunk(generation, row, {"role": "assistant", "content": ""}) | extra
    reasons = ["stop"] * generation.rows
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            reasons[delta.row] = delta.finish_reason or reasons[delta.row]
            if delta.text or delta.logprob is not None:
                yield _chunk(generation, delta.row, {"content": delta.text}, delta) | extra
    for row, reason in enumerate(reasons):
        yield _chunk(generation, row, {}, finish_reason=reason) | extra
    if include_usage:
        yield _envelope(generation, "chat.completion.chunk") | {"choices": [], "usage": generation.usage}


async def activation_lines(generation: TextGeneration) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of a stream with activations: one for each token, then the finish reasons and the usage."""
    roles = [{"role": "assistant"}] * generation.rows
    reasons = ["stop"] * generation.rows
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            row = delta.row
            reasons[row] = delta.finish_reason or reasons[row]
            yield _chunk(generation, row, roles[row] | {"content": delta.text}, delta) | {
                "activations": delta.activations
            }
            roles[row] = {}
    for row, reason in enumerate(reasons):
        end: dict[str, Any] = _chunk(generation, row, roles[row], finish_reason=reason) | {"activations": {}}
        yield end | ({"usage": generation.usage} | _capture_id(generation) if row == generation.rows - 1 else {})


def _capture_id(generation: TextGeneration) -> dict[str, str]:
    return {} if generation.capture_id is None else {"capture_id": generation.capture_id}


@dataclass(slots=True)
class _ChoiceState:
    """One choice while it grows."""

    texts: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish_reason: str = "stop"


async def _collect(
    generation: TextGeneration, *, logprobs: bool
) -> tuple[dict[str, Any], dict[str, list[orjson.Fragment]]]:
    answers = [_ChoiceState() for _ in range(generation.rows)]
    captured: dict[str, list[orjson.Fragment]] = {}
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            answer = answers[delta.row]
            answer.texts.append(delta.text)
            answer.finish_reason = delta.finish_reason or answer.finish_reason
            if delta.logprob is not None:
                answer.logprobs.append(delta.logprob)
            for hook_id, pieces in delta.activations.items():
                captured.setdefault(hook_id, []).extend(pieces)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(answer.texts)},
            "logprobs": {"content": answer.logprobs, "refusal": None} if logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return _envelope(generation, "chat.completion") | {"choices": choices, "usage": generation.usage}, captured


def _chunk(
    generation: TextGeneration,
    row: int,
    content: dict[str, str],
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
