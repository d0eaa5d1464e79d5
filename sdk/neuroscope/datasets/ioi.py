"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593): "Mary and John ... John gave it to" Mary.

Templates, names, places and objects are those of the paper. In the corrupted prompt the two names swap roles (MIB's
s2_io_flip).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary

_TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a lot of fun at the {place}. {S} gave a {object} to",
    "Then, {A} and {B} were working at the {place}. {S} decided to give a {object} to",
    "Then, {A} and {B} were thinking about going to the {place}. {S} wanted to give a {object} to",
    "Then, {A} and {B} had a long argument, and afterwards {S} said to",
    "After {A} and {B} went to the {place}, {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give the {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "While {A} and {B} were commuting to the {place}, {S} gave a {object} to",
    "After the lunch, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Afterwards, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Then, {A} and {B} had a long argument. Afterwards {S} said to",
    "The {place} {A} and {B} went to had a {object}. {S} gave it to",
    "Friends {A} and {B} found a {object} at the {place}. {S} gave it to",
)
_NAMES = tuple(
    "Michael Christopher Jessica Matthew Ashley Jennifer Joshua Amanda Daniel David James Robert John Joseph Andrew "
    "Ryan Brandon Jason Justin Sarah William Jonathan Stephanie Brian Nicole Nicholas Anthony Heather Eric Elizabeth "
    "Adam Megan Melissa Kevin Steven Thomas Timothy Christina Kyle Rachel Laura Lauren Amber Brittany Danielle Richard "
    "Kimberly Jeffrey Amy Crystal Michelle Tiffany Jeremy Benjamin Mark Emily Aaron Charles Rebecca Jacob Stephen "
    "Patrick Sean Erin Zachary Jamie Kelly Samantha Nathan Sara Dustin Paul Angela Tyler Scott Katherine Andrea "
    "Gregory Erica Mary Travis Lisa Kenneth Bryan Lindsey Kristen Jose Alexander Jesse Katie Lindsay Shannon Vanessa "
    "Courtney Christine Alicia Cody Allison Bradley Samuel".split()
)
_PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
_OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack")


def _examples(rng: Random, vocabulary: Vocabulary) -> Iterator[Example]:
    words = vocabulary.words
    while True:
        first, second = rng.sample(words["names"], 2)
        template = rng.choice(_TEMPLATES)
        place, thing = rng.choice(words["places"]), rng.choice(words["objects"])
        subject, receiver = (second, first) if rng.random() < 0.5 else (first, second)  # ABBA, BABA

        def told(acting: str, slots: tuple[str, ...] = (template, first, second, place, thing)) -> str:
            sentence, a, b, where, what = slots
            return sentence.format(A=a, B=b, S=acting, place=where, object=what)

        yield Example(told(subject), told(receiver), f" {receiver}", f" {subject}")


IOI = NamedDataset(
    "ioi",
    "who receives, of two people of whom one acts again (Wang et al. 2022)",
    (_examples,),
    {"names": _NAMES, "places": _PLACES, "objects": _OBJECTS},
    fewest_words=3,
    most_tokens_per_word=1.0,
)
