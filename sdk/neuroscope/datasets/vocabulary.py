"""Vocabulary of dataset generators, and definitions of named datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from neuroscope.datasets.example import Example


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's words and tokens."""

    words: Mapping[str, Sequence[str]]
    """Single-token words by kind."""
    token_ids: Sequence[int]
    """All token ids except special tokens."""
    bos_id: int | None
    """The BOS token, if any."""


ExampleGenerator: TypeAlias = "Callable[[Random, Vocabulary], Iterator[Example]]"
"""An infinite generator of examples."""


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A dataset of the literature."""

    name: str
    """Name such as ioi."""
    description: str
    """The task, and its source."""
    forms: tuple[ExampleGenerator, ...]
    """Generators; the first whose examples fit is used. Later ones are for tokenizers that split numbers."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Words by kind; only single-token words are used."""
    fewest_words: int = 4
    """Least number of words of each kind."""
    most_tokens_per_word: float = 0.0
    """Prompts with more tokens per word are dropped, since the tokenizer lacks the words; 0 for no limit."""
