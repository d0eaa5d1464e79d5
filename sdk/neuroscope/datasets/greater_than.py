"""Years (Hanna et al. 2023, arXiv:2305.00586): "The war lasted from the year 1732 to the year 17" - a year after 32.

In the corrupted prompt the war begins in year 01, as in the paper, so that every year is later. Answer and other are a
later and an earlier year at the same distance, or their first digits if the tokenizer splits years into digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary

_NOUNS = tuple(
    "accord alliance attack battle campaign case challenge chaos clash collaboration competition conflict conquest "
    "construction contest crisis debate development dispute dynasty effort era exchange expansion expedition fight "
    "growth investigation journey marriage mission movement negotiation operation partnership peace period pilgrimage "
    "plan process program progress project pursuit quest raid reform reign relationship reunion revolution riot siege "
    "struggle survey trade treaty trial voyage war".split()
)
_CENTURIES = range(11, 18)
_MOST_DISTANCE = 10


def _examples(rng: Random, vocabulary: Vocabulary, *, in_digits: bool) -> Iterator[Example]:
    while True:
        noun, century = rng.choice(_NOUNS), rng.choice(_CENTURIES)
        distance = 10 if in_digits else rng.randint(1, _MOST_DISTANCE)
        year = rng.randint(2 + distance, 99 - distance)
        text = "The {noun} lasted from the year {century}{year:02} to the year {century}"
        clean, corrupted = (text.format(noun=noun, century=century, year=each) for each in (year, 1))
        after, before = f"{year + distance:02}", f"{year - distance:02}"
        if in_digits:
            after, before = after[0], before[0]
        yield Example(clean, corrupted, after, before)


GREATER_THAN = NamedDataset(
    "greater-than",
    "a year after the one that something began in (Hanna et al. 2023)",
    (partial(_examples, in_digits=False), partial(_examples, in_digits=True)),
)
