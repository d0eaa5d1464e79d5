"""Sums of two numbers from 0 to 99, always worked out as ``27 + 45 = 72.``

Held out are unordered pairs: neither 27 + 45 nor 45 + 27 is seen when the pair is kept for testing.
"""

from random import Random

from ..exchange import Exchange
from .holdout import is_held_out

QUESTIONS = ("What is {a} + {b}?", "{a} + {b} = ?", "What is {a} plus {b}?", "Add {a} and {b}.", "{a}+{b}")


def is_test_pair(a: int, b: int) -> bool:
    return is_held_out("addition", *sorted((a, b)))


def test_pairs() -> list[tuple[int, int]]:
    """Every ordered pair that training never shows."""
    return [(a, b) for a in range(100) for b in range(100) if is_test_pair(a, b)]


def plain_sum(a: int, b: int) -> Exchange:
    return Exchange("addition", "plain", f"{a} + {b} =", f" {a + b}.", prompt_weight=0.0)


def sum_question(a: int, b: int, question: int = 0) -> Exchange:
    prompt = QUESTIONS[question].format(a=a, b=b)
    return Exchange("addition", f"chat {question}", prompt, f"{a} + {b} = {a + b}.", chat=True, prompt_weight=0.0)


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    while True:
        below = 100 if held_out or rng.random() < 0.85 else 10
        a, b = rng.randrange(below), rng.randrange(below)
        if is_test_pair(a, b) == held_out:
            break
    return plain_sum(a, b) if rng.random() < 0.6 else sum_question(a, b, rng.randrange(len(QUESTIONS)))
