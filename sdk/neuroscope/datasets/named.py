"""The named datasets."""

from __future__ import annotations

from neuroscope.datasets.arithmetic import ARITHMETIC
from neuroscope.datasets.docstring import DOCSTRING
from neuroscope.datasets.facts import FACTS
from neuroscope.datasets.greater_than import GREATER_THAN
from neuroscope.datasets.ioi import IOI
from neuroscope.datasets.repetition import COPYING, INDUCTION

NAMED = {each.name: each for each in (IOI, GREATER_THAN, INDUCTION, COPYING, DOCSTRING, FACTS, ARITHMETIC)}
"""Named datasets by name."""
