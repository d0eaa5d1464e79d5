"""What generators draw from, and what a named dataset is made of."""

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
    """Of each kind of the dataset's words, those that are one token."""
    token_ids: Sequence[int]
    """All but those that begin or end a text."""
    bos_id: int | None
    """What texts begin with, if anything."""


ExampleGenerator: TypeAlias = "Callable[[Random, Vocabulary], Iterator[Example]]"
"""Examples without end."""


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A dataset of the literature."""

    name: str
    """Such as ioi."""
    description: str
    """What it asks for, and whose it is."""
    forms: tuple[ExampleGenerator, ...]
    """The first of which any example fits is taken: later ones are for tokenizers that cut numbers into digits."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By kind, words of which those are used that are one token."""
    fewest_words: int = 4
    """Of each kind."""
    most_tokens_per_word: float = 0.0
    """Prompts of more tokens for a word are left out: the tokenizer does not know their words. 0: none."""
