"""Text completions in OpenAI's legacy format: the completion, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from neuroscope.aio import AsyncClient
from neuroscope_gateway.generation.text_generation import TextGeneration, TokenDelta
from neuroscope_gateway.openai.prompt_echo import PromptEcho, hook_id
from neuroscope_gateway.schemas.completions import CompletionRequest


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The delta of one choice."""

    row: int
    text: str
    logprobs: dict[str, Any] | None = None


@dataclass(slots=True)
class ChoiceState:
    """One choice while it grows.

    Args:
        echo: the echo of its prompt.
        top_logprob_count: number of alternatives for each token; None without log-probabilities.
    """

    echo: PromptEcho
    top_logprob_count: int | None
    length: int = field(init=False)
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        self.length = len(self.echo.text)

    def add(self, delta: TokenDelta) -> TextDelta | None:
        """Adds a token; None if it changes nothing in the response."""
        offset, self.length = self.length, self.length + len(delta.text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        logprobs = self._logprobs(delta, offset)
        return TextDelta(delta.row, delta.text, logprobs) if delta.text or logprobs is not None else None

    def _logprobs(self, delta: TokenDelta, offset: int) -> dict[str, Any] | None:
        """The `logprobs` of a token; None without log-probabilities, and for a token that is not part of the text."""
        entry = delta.logprob
        if self.top_logprob_count is None or entry is None:
            return None
        likeliest = {top["token"]: top["logprob"] for top in entry["top_logprobs"]}
        return {
            "tokens": [entry["token"]],
            "token_logprobs": [entry["logprob"]],
            "top_logprobs": [likeliest | {entry["token"]: entry["logprob"]}] if self.top_logprob_count else None,
            "text_offset": [offset],
        }


class TextCompletionWriter:
    """Writes text completions.

    Args:
        generation: the generation.
        request: the request.
        echoes: the echo of each prompt.
        client: returns the texts of alternatives in an echo.
    """

    def __init__(
        self, generation: TextGeneration, request: CompletionRequest, echoes: Sequence[PromptEcho], client: AsyncClient
    ) -> None:
        self._generation = generation
        self._request = request
        self._client = client
        self._choices = [
            ChoiceState(echo, request.top_logprob_count) for echo in echoes for _ in range(request.choice_count)
        ]
        self._echo_logprobs: dict[int, dict[str, Any]] = {}  # by first row of the prompt

    async def completion(self) -> dict[str, Any]:
        """The `text_completion` object, after the generation."""
        texts: list[list[str]] = [[] for _ in self._choices]
        logprobs = [_empty_logprobs(self._request.top_logprob_count) for _ in self._choices]
        async with aclosing(self._deltas()) as parts:
            async for part in parts:
                texts[part.row].append(part.text)
                for name, values in (part.logprobs or {}).items():
                    if values is not None:
                        logprobs[part.row][name] += values
        choices = [
            {
                "index": index,
                "text": "".join(texts[index]),
                "logprobs": None if self._request.top_logprob_count is None else logprobs[index],
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._envelope() | {"choices": choices, "usage": self._usage()}

    async def chunks(self, *, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        """The `text_completion` objects of a stream: echoes, texts, finish reasons, usage."""
        extra = {"usage": None} if include_usage else {}
        async with aclosing(self._deltas()) as parts:
            async for part in parts:
                yield self._chunk(part) | extra
        for row, choice in enumerate(self._choices):
            yield self._chunk(TextDelta(row, ""), finish_reason=choice.finish_reason) | extra
        if include_usage:
            yield self._envelope() | {"choices": [], "usage": self._usage()}

    async def _deltas(self) -> AsyncGenerator[TextDelta, None]:
        """The deltas of echoes and tokens."""
        waiting = set[int]()
        for row, choice in enumerate(self._choices):
            if choice.echo.token_ids:
                waiting.add(row)  # for its log-probabilities
            elif choice.echo.text:
                yield TextDelta(row, choice.echo.text)
        async with aclosing(self._generation.deltas()) as deltas:
            async for delta in deltas:
                if delta.row in waiting:
                    waiting.remove(delta.row)
                    yield await self._echo(delta)
                part = self._choices[delta.row].add(delta)
                if part is not None and not self._request.is_echo_only:
                    yield part
        if self._request.is_echo_only:
            for choice in self._choices:
                choice.finish_reason = "length"

    async def _echo(self, delta: TokenDelta) -> TextDelta:
        """The echo of a row, computed once for each prompt."""
        echo = self._choices[delta.row].echo
        first = delta.row - delta.row % self._request.choice_count
        if first not in self._echo_logprobs:
            pieces = delta.gateway_captures.get(hook_id(first), ())
            count = self._request.top_logprob_count or 0
            self._echo_logprobs[first] = await echo.logprobs(pieces, count, self._client, self._generation.model)
        return TextDelta(delta.row, echo.text, self._echo_logprobs[first])

    def _usage(self) -> dict[str, int]:
        usage = self._generation.usage
        if self._request.is_echo_only:
            return usage | {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    def _chunk(self, part: TextDelta, *, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": part.row, "text": part.text, "logprobs": part.logprobs, "finish_reason": finish_reason}
        return self._envelope() | {"choices": [choice]}

    def _envelope(self) -> dict[str, Any]:
        generation = self._generation
        return {
            "id": generation.id,
            "object": "text_completion",
            "created": generation.created,
            "model": generation.model,
        }


def _empty_logprobs(alternatives: int | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    return empty if alternatives else empty | {"top_logprobs": None}
