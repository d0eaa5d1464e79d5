"""Whether the prompts make a difference: what the metric's change over the pairs is held against.

A circuit explains the change of the metric between the clean and the corrupted runs. Its mean over the pairs counts if
its magnitude exceeds both

    the least effect    what the request calls something, or what rounding can do
    noise               t * standard error over the pairs, at the search's significance, two-sided (Student 1908)

The test is made once a search, before anything is scored, on pairs that nothing has been chosen by; so the chance of a
circuit where there is none is at most the significance, however many edges there are. One pair has no standard error.

Pairs that share a prompt are no independent evidence: on noise, 64 pairs of 8 prompts would pass 28 times in 100 at a
significance of .001. So the standard error adds the products of what such pairs deviate by (Fafchamps & Gubert 2007,
doi:10.1016/j.jdeveco.2006.05.005; never below the usual one), and t has the freedom of so many pairs as would be
independent (Kish 1965): n^2 / the number of ordered pairs of pairs that share one, each with itself among them. It has
at least one degree of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2
from neuroscope_analysis.circuits.pair_runs import Values

_ROUNDING = 1e-4
"""Of the largest metric: what recomputing in another batch can do, in float32."""
SharedPrompts = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunDifference:
    """The change of the metric between the runs, and what it must exceed.

    Args:
        mean: over the pairs.
        least: the least effect.
        noise: over the pairs; 0 of one pair.
        pairs: how many.
        independent: as many as would tell as much and share no prompt.
        significance: of the test.
    """

    mean: float
    least_effect: float
    noise: float
    pairs: int
    independent: float
    significance: float

    @property
    def why_no_effect(self) -> str:
        """Why there is nothing to find; empty where there is."""
        told = f"the clean runs score {self.mean:.4g} more than the corrupted ones"
        if abs(self.mean) <= self.least_effect:
            return f"{told}, and the least effect is {self.least_effect:.4g}"
        if abs(self.mean) <= self.noise:
            shared = f", worth {self.independent:.3g} that share no prompt," if self.independent < self.pairs else ""
            return (
                f"{told}, and over {self.pairs} pairs{shared} noise explains {self.noise:.4g} at a significance of "
                f"{self.significance:g}"
            )
        return ""


def run_difference(
    clean: Values, corrupted: Values, test: pb.EffectTest, shared: SharedPrompts | None = None
) -> RunDifference:
    """The change of the metric, by pair, held against noise.

    Args:
        clean: of the clean runs (pairs,).
        corrupted: of the corrupted ones.
        test: of the search.
        shared: whether two pairs share a prompt (pairs, pairs); None: none do.
    """
    changes, pairs = clean - corrupted, len(clean)
    shared = np.eye(pairs, dtype=bool) if shared is None else shared
    independent = pairs**2 / float(shared.sum())
    least = least_effect(clean, corrupted, test)
    noise = 0.0
    if pairs > 1 and not test.skip:
        t = float(cast("Any", special).stdtrit(max(independent - 1, 1), 1 - test.significance / 2))
        rest = changes - changes.mean()
        noise = t * float(np.sqrt(max(rest @ rest, rest @ shared @ rest) / (pairs * (pairs - 1))))
    mean, least = float(changes.mean()), 0.0 if test.skip else least
    return RunDifference(mean, least, noise, pairs, independent, test.significance)


def share_prompts(pairs: Sequence[experiment_pb2.PairTokens]) -> SharedPrompts:
    """Whether a pair's clean prompt is in another pair, too, clean or corrupted (pairs, pairs).

    One corrupted prompt that many clean ones are held against makes no pair depend on another.
    """
    clean = [tuple(pair.clean.ids) for pair in pairs]
    both = [{prompt, tuple(pair.corrupted.ids)} for prompt, pair in zip(clean, pairs, strict=True)]
    found = np.array([[prompt in other for other in both] for prompt in clean])
    return found | found.T


def least_effect(clean: Values, corrupted: Values, test: pb.EffectTest) -> float:
    """What a change of the metric must exceed to be more than rounding, or what the request calls something."""
    rounding = _ROUNDING * float(max(np.abs(clean).max(), np.abs(corrupted).max(), 1e-12))
    return max(test.least_effect, rounding)
