"""Checks that an example fits a tokenizer: prompts of equal length, single-token answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from neuroscope.datasets.dataset import Dataset
from neuroscope.datasets.example import Example, Pair, Text
from neuroscope.vocabulary.model_info import Tokens
from neuroscope.vocabulary.token_text import visible

DatasetLike: TypeAlias = "str | Path | Dataset | Sequence[Example | Mapping[str, Any]]"
"""A name, a JSONL file, or pairs {clean, corrupted, answer, other}."""
DEFAULT_COUNT = 64
"""Pairs of a named dataset."""
_WORD = re.compile(r"\w+|[^\w\s]")


class TokenizerMismatch(Exception):
    """An example that does not fit the tokenizer.

    Args:
        reason: short reason, for counting.
        message: full error message.
        part: field of the example.
    """

    def __init__(self, reason: str, message: str, part: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.part = part


def answers(example: Example) -> Iterator[tuple[Text, str]]:
    """Prompts followed by an answer, since tokenization depends on the preceding text."""
    if isinstance(example.clean, str):
        for answer in (example.answer, example.other):
            if isinstance(answer, str):
                yield example.clean, answer


def pair(example: Example, known: Mapping[tuple[Text, str], Tokens], most_tokens_per_word: float) -> Pair:
    """Tokenises an example.

    Args:
        example: prompts and answers.
        known: tokens of each prompt, alone and followed by an answer.
        most_tokens_per_word: the most tokens per word; 0 for no limit.

    Raises:
        TokenizerMismatch: the example does not fit the tokenizer.
    """
    clean, corrupted = known[example.clean, ""], known[example.corrupted, ""]
    if len(clean) != len(corrupted):
        raise TokenizerMismatch(
            "unequal lengths",
            f"the clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}; they must have as many",
            "corrupted",
        )
    if most_tokens_per_word and isinstance(example.clean, str):
        words = len(_WORD.findall(example.clean)) + 1  # + 1 for BOS
        if len(clean) > most_tokens_per_word * words:
            raise TokenizerMismatch(
                "words of several tokens", f"{example.clean!r} is spelled out: {len(clean)} tokens", "clean"
            )
    answer = _answer_id(example, "answer", known)
    other = _answer_id(example, "other", known)
    if answer == other:
        raise TokenizerMismatch("equal answers", f"answer and other are the same token, {example.answer!r}", "other")
    if clean.ids == corrupted.ids:
        raise TokenizerMismatch("equal prompts", "the clean and the corrupted prompt are the same", "corrupted")
    return Pair(example, tuple(clean), tuple(corrupted), answer, other)


def _answer_id(example: Example, part: str, known: Mapping[tuple[Text, str], Tokens]) -> int:
    answer: str | int = getattr(example, part)
    if isinstance(answer, int):
        return answer
    if not isinstance(example.clean, str):
        raise TokenizerMismatch("answer of text", "after a prompt of token ids an answer is a token id", part)
    before, read = known[example.clean, ""], known[example.clean, answer]
    tail = read.tokens[len(before) :]
    if read.ids[: len(before)] != before.ids or not tail:
        raise TokenizerMismatch(
            "answer joins the prompt",
            f"{answer!r} makes one token with the end of the prompt: begin it with a space?",
            part,
        )
    if len(tail) > 1:
        pieces = ", ".join(repr(visible(piece)) for piece in tail)
        raise TokenizerMismatch(
            "answer of several tokens", f"{answer!r} is {len(tail)} tokens, not one: {pieces}", part
        )
    return read.ids[-1]
