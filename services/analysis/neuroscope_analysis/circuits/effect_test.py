"""The significance test of a search: does the metric differ between clean and corrupted runs?

A circuit explains the difference of the metric between both runs. The mean difference over the pairs counts if its
magnitude exceeds both

    minimum effect      of the request, or the rounding error
    noise               t * standard error over the pairs, two-sided (Student 1908)

The test runs once, before anything is scored. The false-positive rate of a search is therefore at most the significance
level, whatever the number of edges. A single pair has no standard error.

Pairs that share a prompt are not independent: on noise, 64 pairs of 8 prompts would pass 28 % of the time at a
significance of .001. The standard error is therefore that for dyadic data (Fafchamps & Gubert 2007,
doi:10.1016/j.jdeveco.2006.05.005; never below the usual one), and t has the degrees of freedom of the effective sample
size (Kish 1965): n^2 over the number of ordered pairs of pairs that share a prompt, including each with itself; at
least one.
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
"""Rounding error in float32 when another batch recomputes a run, relative to the largest metric."""
SharedPrompts = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunDifference:
    """The difference of the metric between clean and corrupted runs, and its thresholds.

    Args:
        mean: the mean difference over the pairs.
        least_effect: minimum effect.
        noise: the noise threshold; 0 for one pair.
        pairs: number of pairs.
        independent: effective number of independent pairs.
        significance: significance level.
    """

    mean: float
    least_effect: float
    noise: float
    pairs: int
    independent: float
    significance: float

    @property
    def why_no_effect(self) -> str:
        """Why there is no significant effect; empty if there is one."""
        difference = f"the clean runs score {self.mean:.4g} more than the corrupted ones"
        if abs(self.mean) <= self.least_effect:
            return f"{difference}, and the least effect is {self.least_effect:.4g}"
        if abs(self.mean) <= self.noise:
            shared = f", worth {self.independent:.3g} that share no prompt," if self.independent < self.pairs else ""
            return (
                f"{difference}, and over {self.pairs} pairs{shared} noise explains {self.noise:.4g} at a significance "
                f"of {self.significance:g}"
            )
        return ""


def run_difference(
    clean: Values, corrupted: Values, test: pb.EffectTest, shared: SharedPrompts | None = None
) -> RunDifference:
    """Tests the difference of the metric against noise.

    Args:
        clean: metric of the clean runs (pairs,).
        corrupted: metric of the corrupted runs (pairs,).
        test: minimum effect and significance level.
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
    """Whether the clean prompt of a pair also occurs in another pair (pairs, pairs).

    A common corrupted prompt does not make pairs dependent.
    """
    clean = [tuple(pair.clean.ids) for pair in pairs]
    both = [{prompt, tuple(pair.corrupted.ids)} for prompt, pair in zip(clean, pairs, strict=True)]
    found = np.array([[prompt in other for other in both] for prompt in clean])
    return found | found.T


def least_effect(clean: Values, corrupted: Values, test: pb.EffectTest) -> float:
    """The minimum effect of the request, or the rounding error if that is larger."""
    rounding = _ROUNDING * float(max(np.abs(clean).max(), np.abs(corrupted).max(), 1e-12))
    return max(test.least_effect, rounding)
