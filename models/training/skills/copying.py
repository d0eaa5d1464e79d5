"""Repeating: a list of words in chat, or a sequence that starts again in plain text (induction).

Sequences are random, so a test sequence has never been seen. Besides known words some are invented ones of
several tokens, so that copying does not depend on the vocabulary.
"""

from random import Random

from ..exchange import Exchange
from ..lexicon import CONTENT_WORDS

REQUESTS = ("Repeat: {}", "Repeat after me: {}", "Say {}", "Copy this: {}")
ONSETS = "b br d dr f g gl k kr l m n p pl r s st t tr v w z".split()
VOWELS = "a e i o u ai ou".split()
CODAS = ["", "", "l", "m", "n", "r", "s", "x", "nd", "lk"]


def invented_word(rng: Random) -> str:
    word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3))) + rng.choice(CODAS)
    return word.capitalize() if rng.random() < 0.3 else word


def words(rng: Random, count: int, invented_share: float) -> list[str]:
    """Different known words, some of them replaced by invented ones."""
    known = rng.sample(CONTENT_WORDS, count)
    return [invented_word(rng) if rng.random() < invented_share else word for word in known]


def repeat_request(rng: Random, longest: int, invented_share: float) -> Exchange:
    request = rng.randrange(len(REQUESTS))
    text = " ".join(words(rng, rng.randint(1, longest), invented_share))
    return Exchange("copying", f"chat {request}", REQUESTS[request].format(text), text, chat=True, prompt_weight=0.0)


def induction(rng: Random, longest: int, invented_share: float) -> Exchange:
    sequence = words(rng, rng.randint(min(3, longest), longest), invented_share)
    cue = rng.choice((1, 1, 2))
    prompt = " ".join(sequence + sequence[:cue])
    answer = " " + " ".join(sequence[cue:])
    return Exchange("copying", "plain", prompt, answer, prompt_weight=0.0)


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    """Up to 12 words; training has more short sequences, which teach copying sooner, and some of up to 60 words."""
    longest = 12 if held_out else rng.choice((4, 5, 6, 6, 8, 8, 12, 12, 12, 60))
    invented_share = 0.0 if rng.random() < 0.7 else 0.3
    draw = repeat_request if rng.random() < 0.5 else induction
    return draw(rng, longest, invented_share)
