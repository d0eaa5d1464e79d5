"""Indirect object identification: two people are named, one acts again, the other receives.

Held out are pairs of names. Orders are ABBA (the first named person receives) and BABA. A small share of training
sentences has a third person act (ABC), so that either of the two may receive: the corrupted prompts of the
literature are then no surprise to the model. Follows Wang et al. 2022.
"""

from random import Random

from ..exchange import Exchange
from ..lexicon import NAMES, OBJECTS, PLACES
from .holdout import is_held_out

TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} {verb} a {object} to",
    "When {A} and {B} got to the {place}, {S} {verb} the {object} to",
    "After {A} and {B} walked to the {place}, {S} {verb} a {object} to",
    "While {A} and {B} were at the {place}, {S} {verb} a {object} to",
    "Then, {A} and {B} had fun at the {place}. {S} {verb} the {object} to",
    "Then, {A} and {B} went to the {place}. {S} {verb} a {object} to",
    "{A} and {B} were at the {place}. {S} {verb} a {object} to",
    "{A} met {B} at the {place}. {S} {verb} the {object} to",
)
VERBS = ("gave", "handed", "passed", "showed")


def name_pair(rng: Random, held_out: bool) -> tuple[str, str]:
    while True:
        pair = rng.sample(NAMES, 2)
        if is_held_out("ioi", *sorted(pair)) == held_out:
            return pair[0], pair[1]


def sentence(rng: Random, template: int, first: str, second: str, subject: str) -> str:
    return TEMPLATES[template].format(
        A=first, B=second, S=subject, place=rng.choice(PLACES), object=rng.choice(OBJECTS), verb=rng.choice(VERBS)
    )


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    first, second = name_pair(rng, held_out)
    template = rng.randrange(len(TEMPLATES))
    if not held_out and rng.random() < 0.08:
        subject = rng.choice([name for name in NAMES if name not in (first, second)])
        prompt = sentence(rng, template, first, second, subject)
        return Exchange("ioi", "ABC", prompt, f" {rng.choice((first, second))}.", scored=False)
    abba = rng.random() < 0.5
    subject, recipient = (second, first) if abba else (first, second)
    prompt = sentence(rng, template, first, second, subject)
    return Exchange("ioi", "ABBA" if abba else "BABA", prompt, f" {recipient}.")
