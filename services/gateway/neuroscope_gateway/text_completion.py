"""A turn as the JSON objects of OpenAI's older route: the whole text completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from neuroscope.aio import AsyncClient
from neuroscope_gateway.echo import Echo, hook_id
from neuroscope_gateway.schemas.completions import CompletionRequest
from neuroscope_gateway.turn import Delta, Turn


@dataclass(frozen=True, slots=True)
class Part:
    """What is added to the text of one choice."""

    row: int
    text: str
    logprobs: dict[str, Any] | None = None


@dataclass(slots=True)
class Choice:
    """One choice as it grows.

    Args:
        echo: what stands in front of it.
        alternatives: likeliest alternatives of each token; None where no probability is wanted.
    """

    echo: Echo
    alternatives: int | None
    length: int = field(init=False)
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        self.length = len(self.echo.text)

    def take(self, delta: Delta) -> Part | None:
        """Adds a token; None where it adds nothing to be told."""
        offset, self.length = self.length, self.length + len(delta.text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        logprobs = self._logprobs(delta, offset)
        return Part(delta.row, delta.text, logprobs) if delta.text or logprobs is not None else None

    def _logprobs(self, delta: Delta, offset: int) -> dict[str, Any] | None:
        """The `logprobs` of a token; None where none is wanted or the token is no part of the text."""
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


class TextWriter:
    """Writes down one turn.

    Args:
        turn: the generation.
        request: what was asked for.
        echoes: of its prompts, one each.
        client: asked for the texts of alternatives in an echo.
    """

    def __init__(self, turn: Turn, request: CompletionRequest, echoes: Sequence[Echo], client: AsyncClient) -> None:
        self._turn = turn
        self._request = request
        self._client = client
        self._choices = [Choice(echo, request.alternatives) for echo in echoes for _ in range(request.choices)]
        self._echoed: dict[int, dict[str, Any]] = {}  # by the first row of a prompt

    async def whole(self) -> dict[str, Any]:
        """The `text_completion` object, once the turn has ended."""
        texts: list[list[str]] = [[] for _ in self._choices]
        logprobs = [_nothing(self._request.alternatives) for _ in self._choices]
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                texts[part.row].append(part.text)
                for name, values in (part.logprobs or {}).items():
                    if values is not None:
                        logprobs[part.row][name] += values
        choices = [
            {
                "index": index,
                "text": "".join(texts[index]),
                "logprobs": None if self._request.alternatives is None else logprobs[index],
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._head() | {"choices": choices, "usage": self._usage()}

    async def chunks(self, *, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        """The `text_completion` objects of a stream: the echoes, the texts as they come, the ends, the usage."""
        extra = {"usage": None} if include_usage else {}
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                yield self._chunk(part) | extra
        for row, choice in enumerate(self._choices):
            yield self._chunk(Part(row, ""), finish_reason=choice.finish_reason) | extra
        if include_usage:
            yield self._head() | {"choices": [], "usage": self._usage()}

    async def _parts(self) -> AsyncGenerator[Part, None]:
        """Echoes, each as soon as it is complete, and what tokens add."""
        waiting = set[int]()
        for row, choice in enumerate(self._choices):
            if choice.echo.token_ids:
                waiting.add(row)  # for its probabilities
            elif choice.echo.text:
                yield Part(row, choice.echo.text)
        async with aclosing(self._turn.deltas()) as deltas:
            async for delta in deltas:
                if delta.row in waiting:
                    waiting.remove(delta.row)
                    yield await self._echo(delta)
                part = self._choices[delta.row].take(delta)
                if part is not None and not self._request.is_echo_alone:
                    yield part
        if self._request.is_echo_alone:
            for choice in self._choices:
                choice.finish_reason = "length"

    async def _echo(self, delta: Delta) -> Part:
        """The echo of a row; the same for all rows of a prompt."""
        echo = self._choices[delta.row].echo
        first = delta.row - delta.row % self._request.choices
        if first not in self._echoed:
            pieces = delta.read.get(hook_id(first), ())
            count = self._request.alternatives or 0
            self._echoed[first] = await echo.logprobs(pieces, count, self._client, self._turn.model)
        return Part(delta.row, echo.text, self._echoed[first])

    def _usage(self) -> dict[str, int]:
        usage = self._turn.usage
        if self._request.is_echo_alone:
            return usage | {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    def _chunk(self, part: Part, *, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": part.row, "text": part.text, "logprobs": part.logprobs, "finish_reason": finish_reason}
        return self._head() | {"choices": [choice]}

    def _head(self) -> dict[str, Any]:
        turn = self._turn
        return {"id": turn.id, "object": "text_completion", "created": turn.created, "model": turn.model}


def _nothing(alternatives: int | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    return empty if alternatives else empty | {"top_logprobs": None}
