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
_LEAST_NAME = "the least effect"
_ROBUST_DEVIATIONS = 3.0
_MAD_TO_DEVIATION = 1.4826


def check_ranges(least_effect: float, significance: float, least_field: str, significance_field: str) -> None:
    """Checks minimum effect and significance level.

    Raises:
        InvalidRequestError: one is out of range.
    """
    if not math.isfinite(least_effect) or least_effect < 0:
        raise InvalidRequestError("the minimum effect must be a finite number, at least 0", field=least_field)
    if not 0 <= significance < 1:
        raise InvalidRequestError("the significance level must be from 0 to below 1", field=significance_field)


def standard_error(changes: MetricChanges) -> MetricChanges:
    """The standard error of the mean along the first axis."""
    return changes.std(axis=0, ddof=1) / math.sqrt(len(changes))


def t_quantile(freedom: float, significance: float) -> float:
    """The t quantile of a one-sided test with so many degrees of freedom; of infinitely many the normal one."""
    functions: Any = special
    quantile = (
        functions.ndtri(1 - significance) if math.isinf(freedom) else functions.stdtrit(freedom, 1 - significance)
    )
    return float(quantile)


def moderated_variances(variances: MetricChanges, freedom: int) -> tuple[MetricChanges, float]:
    """Variances of many tests, each drawn towards what the others have, and their degrees of freedom.

    Smyth 2004, "Linear models and empirical Bayes methods", whose estimates of the prior these are: with few changes
    for each test, the spread of all tests says what the spread of one is.

    Args:
        variances: of each test, all above 0.
        freedom: degrees of freedom of each.
    """
    functions: Any = special
    half = freedom / 2
    logs = np.log(variances) - functions.digamma(half) + math.log(half)
    excess = float(logs.var(ddof=1) - functions.polygamma(1, half)) if len(variances) > 1 else 0.0
    if excess <= 0:  # they differ no more than chance lets equal ones differ
        return np.full_like(variances, math.exp(float(logs.mean()))), math.inf
    low, high = 1e-3, 1e6  # half the prior's degrees of freedom: polygamma(1, x) falls with x
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if float(functions.polygamma(1, middle)) > excess else (low, middle)
    prior = math.exp(float(logs.mean()) + float(functions.digamma(low)) - math.log(low))
    return (2 * low * prior + freedom * variances) / (2 * low + freedom), 2 * low + freedom


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

    @property
    def fixed_bound(self) -> str:
        """Which of the bounds that do not depend on the changes is the largest."""
        return self._others_name if self.others_bound > self.least_effect else _LEAST_NAME

    @property
    def _others_name(self) -> str:
        return f"effects of {self.other_count} heads without the role"

    def evidence(self, probe: pb.CausalProbe.ValueType, changes: MetricChanges) -> pb.CausalEvidence:
        """The evidence of one test."""
        error = float(standard_error(changes))
        bounds = {
            _LEAST_NAME: self.least_effect,
            "noise over the sequences": t_quantile(len(changes) - 1, self.significance) * error,
            self._others_name: self.others_bound,
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
            sequence_count=len(changes),
        )


def robust_upper_bound(effects: Sequence[float]) -> float:
    """A robust upper bound of a distribution of effects; 0 if it is empty."""
    if not effects:
        return 0.0
    middle = float(np.median(effects))
    deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(effects) - middle)))
    return middle + _ROBUST_DEVIATIONS * deviation
