"""Sums of two numbers below 100 (Stolfo et al. 2023, arXiv:2305.15054): "27 + 45 =" 72.

The corrupted prompt has another second number. If the tokenizer splits numbers into digits, the answer is the sum's
first digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary


def _examples(rng: Random, vocabulary: Vocabulary, *, in_digits: bool) -> Iterator[Example]:
    while True:
        a, b, other = rng.randrange(100), rng.randrange(10, 100), rng.randrange(10, 100)
        totals = a + b, a + other
        prompts = f"{a} + {b} =", f"{a} + {other} ="
        if not in_digits:
            yield Example(*prompts, *(f" {total}" for total in totals))
        elif len(str(totals[0])) == len(str(totals[1])):
            yield Example(*(f"{prompt} " for prompt in prompts), *(str(total)[0] for total in totals))


ARITHMETIC = NamedDataset(
    "arithmetic",
    "the sum of two numbers below 100 (Stolfo et al. 2023)",
    (partial(_examples, in_digits=False), partial(_examples, in_digits=True)),
)
