"""Datasets of clean and corrupted prompts: those of the literature, and the user's own.

pairs = client.dataset("ioi", count=64, seed=0)
pairs.clean, pairs.corrupted, pairs.metric()
found_on, tried_on = pairs.split()
client.dataset("mine.jsonl")                   one object {clean, corrupted, answer, other} per line

ioi            indirect object identification (Wang et al. 2022)
greater-than   a year later than the one in which something began (Hanna et al. 2023)
induction      repeated random tokens (Olsson et al. 2022)
copying        repeated words
docstring      the next argument that a docstring describes (Heimersheim and Janiak 2023)
facts          capitals of countries
arithmetic     the sum of two numbers below 100 (Stolfo et al. 2023)
"""

from neuroscope.datasets.dataset import Dataset
from neuroscope.datasets.example import Example, Pair
from neuroscope.datasets.fitting import DatasetLike
from neuroscope.datasets.named import NAMED

__all__ = ["NAMED", "Dataset", "DatasetLike", "Example", "Pair"]
