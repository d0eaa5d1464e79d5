"""Capitals: "The capital of France is" Paris. The corrupted prompt has another country of equally many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary

_PAIRS = (
    ":"
    "France:Paris Italy:Rome Spain:Madrid Germany:Berlin England:London Greece:Athens Norway:Oslo Sweden:Stockholm "
    "Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Austria:Vienna Hungary:Budapest Portugal:Lisbon "
    "Ireland:Dublin Belgium:Brussels Switzerland:Bern Croatia:Zagreb Bulgaria:Sofia Ukraine:Kyiv Latvia:Riga "
    "Serbia:Belgrade Iceland:Reykjavik Russia:Moscow Turkey:Ankara Japan:Tokyo China:Beijing Thailand:Bangkok "
    "Vietnam:Hanoi Nepal:Kathmandu Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut Egypt:Cairo "
    "Kenya:Nairobi Ghana:Accra Morocco:Rabat Senegal:Dakar Angola:Luanda Uganda:Kampala Zambia:Lusaka "
    "Canada:Ottawa Cuba:Havana Jamaica:Kingston Peru:Lima Chile:Santiago Ecuador:Quito Venezuela:Caracas "
    "Uruguay:Montevideo Australia:Canberra Fiji:Suva"
)
_CAPITALS = {country: capital for country, _, capital in (pair.partition(":") for pair in _PAIRS.split())}
_TEMPLATES = ("The capital of {country} is", "The capital city of {country} is", "{country}'s capital is")


def _examples(rng: Random, vocabulary: Vocabulary) -> Iterator[Example]:
    while True:
        country, other = rng.sample(list(_CAPITALS), 2)
        template = rng.choice(_TEMPLATES)
        yield Example(
            template.format(country=country),
            template.format(country=other),
            f" {_CAPITALS[country]}",
            f" {_CAPITALS[other]}",
        )


FACTS = NamedDataset("facts", "capitals of countries", (_examples,))
