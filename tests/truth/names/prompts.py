"""Prompts with two names, one of them twice; in the corrupted ones all three are others, and each is there once.

As in Wang et al. (2022), whose distribution of such prompts is ABC. In the other counterfactual of theirs the name that
comes twice is the other one: only the third name is swapped.
"""

from typing import Any

import numpy as np

from tests.support.byte_bpe import BOS_ID
from tests.truth.names.model import FIRST_TOKEN, LAST_WORD, NAMES, WORDS

THIRD_NAME = 7
"""Where it stands."""


def named_pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """So many pairs, in either order of the names, as `neuroscope.datasets.pairs` reads them."""
    random = np.random.default_rng(seed)
    return [_pair(random) for _ in range(count)]


def swapped_pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """The same clean prompts; in the corrupted ones the third name is the answer."""
    found = named_pairs(count, seed)
    for pair in found:
        corrupted = list(pair["clean"])
        corrupted[THIRD_NAME] = pair["answer"]
        pair["corrupted"] = corrupted
    return found


def _pair(random: np.random.Generator) -> dict[str, Any]:
    io, subject, *others = (FIRST_TOKEN + random.permutation(NAMES)[:5]).tolist()
    words = (FIRST_TOKEN + NAMES + random.permutation(WORDS)[:6]).tolist()
    first = [io, subject] if random.random() < 0.5 else [subject, io]

    def prompt(names: list[int]) -> list[int]:
        one, two, three = names
        return [BOS_ID, words[0], one, words[1], two, words[2], words[3], three, words[4], words[5], LAST_WORD]

    return {"clean": prompt([*first, subject]), "corrupted": prompt(others), "answer": io, "other": subject}
