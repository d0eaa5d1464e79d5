"""Pairs of prompts that a behaviour tells apart: datasets of the literature, and the user's own.

pairs = client.dataset("ioi", count=64, seed=0)
pairs.clean, pairs.corrupted, pairs.metric()
found_on, tried_on = pairs.split()
client.dataset("mine.jsonl")                   an object {clean, corrupted, answer, other} a line

ioi            who receives, of two people of whom one acts again (Wang et al. 2022)
greater-than   a year after the one that something began in (Hanna et al. 2023)
induction      random tokens that come again (Olsson et al. 2022)
copying        words that come again
docstring      the next argument that a docstring describes (Heimersheim and Janiak 2023)
facts          capitals of countries
arithmetic     the sum of two numbers below 100 (Stolfo et al. 2023)
"""

from neuroscope.datasets.dataset import Dataset
from neuroscope.datasets.example import Example, Pair
from neuroscope.datasets.fitting import DatasetLike
from neuroscope.datasets.named import NAMED

__all__ = ["NAMED", "Dataset", "DatasetLike", "Example", "Pair"]
