"""Whether the prompts make a difference: what the metric's change over the pairs is held against.

A circuit explains the change of the metric between the clean and the corrupted runs. Its mean over the pairs counts if
its magnitude exceeds both

    the least effect    what the request calls something, or what rounding can do
    noise               t * standard error over the pairs, at the search's significance, two-sided (Student 1908)

The test is made once a search, before anything is scored, on pairs that nothing has been chosen by; so the chance of a
circuit where there is none is at most the significance, however many edges there are. One pair has no standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope_analysis.circuits.runs import Values

_ROUNDING = 1e-4
"""Of the largest metric: what recomputing in another batch can do, in float32."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The change of the metric between the runs, and what it must exceed.

    Args:
        mean: over the pairs.
        least: the least effect.
        noise: over the pairs; 0 of one pair.
        pairs: how many.
        significance: of the test.
    """

    mean: float
    least: float
    noise: float
    pairs: int
    significance: float

    @property
    def why_none(self) -> str:
        """Why there is nothing to find; empty where there is."""
        told = f"the clean runs score {self.mean:.4g} more than the corrupted ones"
        if abs(self.mean) <= self.least:
            return f"{told}, and the least effect is {self.least:.4g}"
        if abs(self.mean) <= self.noise:
            return (
                f"{told}, and over {self.pairs} pairs noise explains {self.noise:.4g} at a significance of "
                f"{self.significance:g}"
            )
        return ""


def difference(clean: Values, corrupted: Values, test: pb.EffectTest) -> Difference:
    """The change of the metric, by pair, held against noise.

    Args:
        clean: of the clean runs (pairs,).
        corrupted: of the corrupted ones.
        test: of the search.
    """
    changes, pairs = clean - corrupted, len(clean)
    least = least_effect(clean, corrupted, test)
    noise = 0.0
    if pairs > 1 and not test.skip:
        t = float(cast("Any", special).stdtrit(pairs - 1, 1 - test.significance / 2))
        noise = t * float(changes.std(ddof=1) / np.sqrt(pairs))
    return Difference(float(changes.mean()), 0.0 if test.skip else least, noise, pairs, test.significance)


def least_effect(clean: Values, corrupted: Values, test: pb.EffectTest) -> float:
    """What a change of the metric must exceed to be more than rounding, or what the request calls something."""
    rounding = _ROUNDING * float(max(np.abs(clean).max(), np.abs(corrupted).max(), 1e-12))
    return max(test.least_effect, rounding)
