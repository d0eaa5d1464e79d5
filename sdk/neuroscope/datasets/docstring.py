"""Docstrings (Heimersheim and Janiak 2023): the third argument of a function, after the first two are described.

    def port(self, load, size, files, last):
        \"\"\"oil column piece

        :param load: crime population
        :param size: unit dark
        :param                                 files

In the corrupted prompt, the third argument of the function is another word, which is then the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from neuroscope.datasets.example import Example
from neuroscope.datasets.vocabulary import NamedDataset, Vocabulary

_WORDS = tuple(
    "load size file last date test path name key value text code data list node page line item type user group image "
    "color state order table field point event model view time date mode rate level port host time class result shape "
    "first next left right parent child target source option action number index title label content message address "
    "version limit offset format range price project region season section signal speed store stream string".split()
)
_PROSE = tuple(
    "oil column piece crime population unit dark sound forest river garden bridge music market winter summer light "
    "paper stone window river board father mother child doctor police army church school nature power energy metal "
    "glass water fire animal plant flower horse island ocean mountain valley street village country nation history "
    "science culture language theory method issue reason purpose interest business money bank trade".split()
)


def _examples(rng: Random, vocabulary: Vocabulary) -> Iterator[Example]:
    words, prose = vocabulary.words["arguments"], vocabulary.words["prose"]
    while True:
        name, first, second, third, fourth, other = rng.sample(list(dict.fromkeys(words)), 6)
        told = [rng.choice(prose) for _ in range(7)]

        def text(argument: str, slots: tuple[str, ...] = (name, first, second, fourth), told: list[str] = told) -> str:
            name, first, second, fourth = slots
            return (
                f"def {name}(self, {first}, {second}, {argument}, {fourth}):\n"
                f'    """{told[0]} {told[1]} {told[2]}\n\n'
                f"    :param {first}: {told[3]} {told[4]}\n"
                f"    :param {second}: {told[5]} {told[6]}\n"
                "    :param"
            )

        yield Example(text(third), text(other), f" {third}", f" {other}")


DOCSTRING = NamedDataset(
    "docstring",
    "the next argument that a docstring describes (Heimersheim and Janiak 2023)",
    (_examples,),
    {"arguments": _WORDS, "prose": _PROSE},
    fewest_words=8,
)
