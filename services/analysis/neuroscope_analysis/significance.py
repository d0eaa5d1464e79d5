"""Significance of effects.

An effect is the mean of a change over sequences or pairs. It is significant if it exceeds all of

    minimum effect              of the request
    noise                       t * standard error, at the significance level over all tests (Bonferroni)
    heads without the role      median + 3 robust standard deviations of their effects, for metrics specific to the role
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_pb2 as pb

MetricChanges = NDArray[np.float64]
"""Changes of a metric by sequence or pair."""
DEFAULT_LEAST_EFFECT, DEFAULT_SIGNIFICANCE = 0.01, 0.01
_ROBUST_DEVIATIONS = 3.0
_MAD_TO_DEVIATION = 1.4826


def check_ranges(least_effect: float, significance: float, least_field: str, significance_field: str) -> None:
    """Checks minimum effect and significance level.

    Raises:
        InvalidRequestError: one is out of range.
    """
    if not math.isfinite(least_effect) or least_effect < 0:
        raise InvalidRequestError("an effect is a number of nats from 0", field=least_field)
    if not 0 <= significance < 1:
        raise InvalidRequestError("a chance lies between 0 and 1", field=significance_field)


def standard_error(changes: MetricChanges) -> MetricChanges:
    """The standard error of the mean along the first axis."""
    return changes.std(axis=0, ddof=1) / math.sqrt(len(changes))


def t_quantile(count: int, significance: float) -> float:
    """The t quantile of a one-sided test of the mean of `count` changes."""
    return float(cast("Any", special).stdtrit(count - 1, 1 - significance))


def p_values(effects: MetricChanges, errors: MetricChanges, count: int) -> MetricChanges:
    """p-values of two-sided t-tests of means of `count` changes (test,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, np.abs(effects) / errors, np.where(effects == 0, 0.0, np.inf))
    return 2 * np.asarray(cast("Any", special).stdtr(count - 1, -t), np.float64)


def benjamini_hochberg(chances: MetricChanges, rate: float) -> NDArray[np.bool_]:
    """The discoveries among tests at a false-discovery rate (Benjamini & Hochberg 1995)."""
    order = np.argsort(chances)
    passed = chances[order] <= rate * np.arange(1, len(chances) + 1) / max(len(chances), 1)
    found = np.zeros(len(chances), np.bool_)
    if passed.any():
        found[order[: int(np.flatnonzero(passed)[-1]) + 1]] = True
    return found


@dataclass(frozen=True, slots=True)
class EffectThreshold:
    """The threshold of an effect."""

    least_effect: float
    significance: float
    """The significance level of one test."""
    others_bound: float
    """The bound from effects of heads without the role."""
    other_count: int

    def evidence(self, probe: pb.CausalProbe.ValueType, changes: MetricChanges) -> pb.CausalEvidence:
        """The evidence of one test."""
        error = float(standard_error(changes))
        bounds = {
            "the least effect": self.least_effect,
            "noise over the sequences": t_quantile(len(changes), self.significance) * error,
            f"effects of {self.other_count} heads without the role": self.others_bound,
        }
        largest = max(bounds, key=lambda name: bounds[name])
        effect = float(changes.mean())
        return pb.CausalEvidence(
            probe=probe,
            effect_nats=effect,
            standard_error_nats=error,
            bound_nats=bounds[largest],
            bound=largest,
            is_passed=effect > bounds[largest],
        )


def robust_upper_bound(effects: Sequence[float]) -> float:
    """A robust upper bound of a distribution of effects; 0 if it is empty."""
    if not effects:
        return 0.0
    middle = float(np.median(effects))
    deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(effects) - middle)))
    return middle + _ROBUST_DEVIATIONS * deviation
