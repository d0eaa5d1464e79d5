"""Repeated sequences: the next token is the one that followed last time (Elhage et al. 2021; Olsson et al. 2022).

`induction` repeats random tokens, `copying` words. A prompt is a block followed by its beginning; the corrupted prompt
ends with another token of the block, so that the answer is another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary

_TOKENS, _WORDS = 12, (4, 8)
_COMMON = tuple(
    "Mary Anna John Tom Paul James David Mark Peter George Paris Rome London Berlin Madrid France Italy Spain Germany "
    "store park school garden beach market library museum station forest river farm hotel house office hospital drink "
    "book ball ring letter cake flower key map hat coin lamp toy basket bone computer dog cat bird fox rabbit horse "
    "bear frog mouse duck red big small blue green little yellow new hello world one two three four five tree moon sun "
    "star sea water fire white black brown quick bread milk chair table door street city mountain summer winter day "
    "night love music code data head layer model".split()
)


def _last(rng: Random, block: Sequence[int]) -> tuple[int, int]:
    """Two positions of a block that are not its last."""
    first, second = rng.sample(range(len(block) - 1), 2)
    return first, second


def _tokens(rng: Random, vocabulary: Vocabulary) -> Iterator[Example]:
    start = () if vocabulary.bos_id is None else (vocabulary.bos_id,)
    while True:
        block = rng.sample(vocabulary.token_ids, _TOKENS)
        cue, other = _last(rng, block)
        before = (*start, *block, *block[:cue])
        yield Example((*before, block[cue]), (*before, block[other]), block[cue + 1], block[other + 1])


def _words(rng: Random, vocabulary: Vocabulary) -> Iterator[Example]:
    while True:
        block = rng.sample(vocabulary.words["words"], rng.randint(*_WORDS))
        cue, other = _last(rng, range(len(block)))
        clean, corrupted = (" ".join([*block, block[place]]) for place in (cue, other))
        yield Example(clean, corrupted, f" {block[cue + 1]}", f" {block[other + 1]}")


INDUCTION = NamedDataset("induction", "random tokens that come again (Olsson et al. 2022)", (_tokens,))
COPYING = NamedDataset(
    "copying",
    "words that come again: what was behind the last one? (Olsson et al. 2022)",
    (_words,),
    {"words": _COMMON},
    fewest_words=8,
)
