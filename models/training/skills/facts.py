"""Capitals and continents of the closed world, in plain sentences and in chat.

Every fact is taught, but each in nine phrasings of ten: held out are pairs of a fact and a phrasing.
"""

from random import Random

from ..exchange import Exchange
from ..lexicon import CAPITALS, CONTINENTS
from .holdout import is_held_out

# form -> prompt, answer; a form of chat answers in a sentence
PLAIN = {
    "capital": ("The capital of {country} is", " {capital}."),
    "capital city": ("The capital city of {country} is", " {capital}."),
    "country's capital": ("{country}'s capital is", " {capital}."),
    "capital's country": ("{capital} is the capital of", " {country}."),
    "city's country": ("{capital} is a city in", " {country}."),
    "city lies in": ("The city of {capital} is in", " {country}."),
    "continent": ("{country} is a country in", " {continent}."),
    "continent lies in": ("The country {country} is in", " {continent}."),
}
CHAT = {
    "capital?": ("What is the capital of {country}?", "The capital of {country} is {capital}."),
    "name the capital": ("Name the capital of {country}.", "The capital of {country} is {capital}."),
    "capital city?": ("What is the capital city of {country}?", "The capital of {country} is {capital}."),
    "which city?": ("Which city is the capital of {country}?", "The capital of {country} is {capital}."),
    "city where?": ("Where is {capital}?", "{capital} is a city in {country}."),
    "city's country?": ("Which country is {capital} in?", "{capital} is a city in {country}."),
    "country where?": ("Where is {country}?", "{country} is a country in {continent}."),
    "continent?": ("Which continent is {country} in?", "{country} is a country in {continent}."),
}
FORMS = PLAIN | CHAT


def fact(country: str, form: str) -> Exchange:
    prompt, answer = (
        text.format(country=country, capital=CAPITALS[country], continent=CONTINENTS[country]) for text in FORMS[form]
    )
    return Exchange("facts", form, prompt, answer, chat=form in CHAT)


def held_out_facts() -> list[Exchange]:
    return [fact(c, form) for c in CAPITALS for form in FORMS if is_held_out("facts", c, form)]


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    forms = list(CHAT if rng.random() < 0.5 else PLAIN)
    while True:
        country, form = rng.choice(list(CAPITALS)), rng.choice(forms)
        if is_held_out("facts", country, form) == held_out:
            return fact(country, form)
