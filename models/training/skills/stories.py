"""Stories of a few sentences about a child, a pet and a thing.

The last sentence follows from the rest (who, whose, which thing), so it can be tested; held out are pairs of a name
and a pet.
"""

from random import Random

from ..exchange import Exchange
from ..lexicon import ADJECTIVES, ANIMALS, BOYS, GIRLS, OBJECTS, PLACES
from .holdout import is_held_out

OPENING = "Once upon a time there was a {child} named {name}. {name} had a {adjective} {object} and a pet {animal}."
PLOTS = (
    (
        " One day {he} lost {his} {object} at the {place}. {He} was sad. The {animal} ran and found it.",
        " {name} was happy to have the {adjective} {object} again.",
    ),
    (
        " One day {he} went to the {place} with {his} {animal}. {He} saw a friend who had no {object}.",
        " {name} gave the {adjective} {object} to the friend.",
    ),
    (
        " One night the {animal} took the {object} to the {place}. {name} looked everywhere.",
        " {He} found the {animal} and the {adjective} {object} at the {place}.",
    ),
    (
        " The {animal} was hungry, so {he} walked to the {place} to look for food. It was far.",
        " {name} and the {animal} ate there and went home.",
    ),
)
REQUESTS = ("Tell me a story.", "Tell me a story, please.", "Can you tell me a story?", "Write a short story.")
REQUESTS_ABOUT = ("Tell me a story about a {animal}.", "Tell me about {name} and a {animal}.")


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    """A test is always a plain story whose last sentence is asked for."""
    while True:
        girl = rng.random() < 0.5
        name, animal = rng.choice(GIRLS if girl else BOYS), rng.choice(ANIMALS)
        if is_held_out("stories", name, animal) == held_out:
            break
    slots = {
        "name": name,
        "animal": animal,
        "child": "girl" if girl else "boy",
        "he": "she" if girl else "he",
        "He": "She" if girl else "He",
        "his": "her" if girl else "his",
        "object": rng.choice(OBJECTS),
        "adjective": rng.choice(ADJECTIVES),
        "place": rng.choice(PLACES),
    }
    plot = rng.randrange(len(PLOTS))
    middle, last = PLOTS[plot]
    beginning, ending = (OPENING + middle).format(**slots), last.format(**slots)
    if held_out or rng.random() < 0.5:
        return Exchange("stories", f"plot {plot}", beginning, ending, prompt_weight=0.3)
    request = rng.choice(REQUESTS if rng.random() < 0.4 else REQUESTS_ABOUT).format(**slots)
    return Exchange("stories", "chat", request, beginning + ending, chat=True, scored=False)
