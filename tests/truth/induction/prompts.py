"""Prompts of the induction circuit: a random sequence and its beginning again, whose continuation is asked for.

In the corrupted prompt the order is another one, so that another token stood behind the one that comes last; the last
token itself is kept. The metric compares the two continuations.
"""

from dataclasses import dataclass

import numpy as np

from tests.truth.induction.model import FIRST_TOKEN, POSITIONS, TOKENS

SEQUENCE = min(POSITIONS // 2 - 2, TOKENS - 1)


@dataclass(frozen=True)
class Asked:
    """A pair of prompts, equally long, and what the clean and the corrupted one are continued with."""

    clean: list[int]
    corrupted: list[int]
    answer: int
    other: int


def asked(count: int, seed: int = 1) -> list[Asked]:
    """So many pairs."""
    random = np.random.default_rng(seed)
    return [_asked(random) for _ in range(count)]


def _asked(random: np.random.Generator) -> Asked:
    again = SEQUENCE // 2
    sequence = random.permutation(TOKENS)[:SEQUENCE]
    clean = [*sequence, *sequence[:again]]
    last, answer = int(clean[-1]), int(sequence[again])
    while True:
        other_sequence = random.permutation(TOKENS)[:SEQUENCE]
        places = again - 1 + np.flatnonzero(other_sequence[again - 1 : -1] == last)  # there once, before the end
        if not len(places):
            continue
        other = int(other_sequence[places[0] + 1])
        if other != answer:
            break
    corrupted = [*other_sequence, *other_sequence[: again - 1], last]
    clean_ids, corrupted_ids = ([int(token) + FIRST_TOKEN for token in prompt] for prompt in (clean, corrupted))
    return Asked(clean_ids, corrupted_ids, answer + FIRST_TOKEN, other + FIRST_TOKEN)
