"""A turn as the JSON objects of OpenAI's older route: the whole text completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from neuroscope_gateway.turn import Delta, Turn


@dataclass(slots=True)
class Writer:
    """The text of one choice as it grows.

    Args:
        echo: what stands in front of it.
        alternatives: likeliest alternatives of each token; None where no probability is wanted.
    """

    echo: str
    alternatives: int | None
    length: int = field(init=False)
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        self.length = len(self.echo)

    def take(self, delta: Delta) -> dict[str, Any] | None:
        """Adds a token; its `logprobs` object, None where none is wanted or the token is no part of the text."""
        offset, self.length = self.length, self.length + len(delta.text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        entry = delta.logprob
        if self.alternatives is None or entry is None:
            return None
        likeliest = {top["token"]: top["logprob"] for top in entry["top_logprobs"]}
        return {
            "tokens": [entry["token"]],
            "token_logprobs": [entry["logprob"]],
            "top_logprobs": [likeliest | {entry["token"]: entry["logprob"]}] if self.alternatives else None,
            "text_offset": [offset],
        }


async def whole(turn: Turn, echoes: list[str], alternatives: int | None) -> dict[str, Any]:
    """The `text_completion` object, once the turn has ended."""
    writers = _writers(turn, echoes, alternatives)
    texts = [[writer.echo] for writer in writers]
    logprobs: list[dict[str, Any]] = [_nothing(alternatives) for _ in writers]
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            texts[delta.row].append(delta.text)
            for name, values in (writers[delta.row].take(delta) or {}).items():
                if values is not None:
                    logprobs[delta.row][name] += values
    choices = [
        {
            "index": index,
            "text": "".join(texts[index]),
            "logprobs": None if alternatives is None else logprobs[index],
            "finish_reason": writer.finish_reason,
        }
        for index, writer in enumerate(writers)
    ]
    return _head(turn) | {"choices": choices, "usage": turn.usage}


async def chunks(
    turn: Turn, echoes: list[str], alternatives: int | None, *, include_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The `text_completion` objects of a stream: the echoes, the texts as they come, the ends, the usage."""
    extra = {"usage": None} if include_usage else {}
    writers = _writers(turn, echoes, alternatives)
    for row, writer in enumerate(writers):
        if writer.echo:
            yield _chunk(turn, row, writer.echo) | extra
    async with aclosing(turn.deltas()) as deltas:
        async for delta in deltas:
            logprobs = writers[delta.row].take(delta)
            if delta.text or logprobs is not None:
                yield _chunk(turn, delta.row, delta.text, logprobs) | extra
    for row, writer in enumerate(writers):
        yield _chunk(turn, row, "", finish_reason=writer.finish_reason) | extra
    if include_usage:
        yield _head(turn) | {"choices": [], "usage": turn.usage}


def _writers(turn: Turn, echoes: list[str], alternatives: int | None) -> list[Writer]:
    """One for each row; the rows of one prompt have the same echo."""
    per_prompt = turn.rows // len(echoes)
    return [Writer(echoes[row // per_prompt], alternatives) for row in range(turn.rows)]


def _nothing(alternatives: int | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    return empty if alternatives else empty | {"top_logprobs": None}


def _chunk(
    turn: Turn, row: int, text: str, logprobs: dict[str, Any] | None = None, *, finish_reason: str | None = None
) -> dict[str, Any]:
    choice = {"index": row, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
    return _head(turn) | {"choices": [choice]}


def _head(turn: Turn) -> dict[str, Any]:
    return {"id": turn.id, "object": "text_completion", "created": turn.created, "model": turn.model}
