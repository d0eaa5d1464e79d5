"""When a causal test has seen enough sequences.

A test looks at its changes after 4, 16, 64, ... sequences, and ends at the first look whose confidence interval is
clear of the bound; the significance is divided by the number of looks (Bonferroni). Divergences are positive and vary
by a factor, much alike from head to head, so their interval is that of their logarithms, with variances moderated over
the heads of a look (Smyth 2004). At the last look a test passes as `significance` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.significance import (
    EffectThreshold,
    MetricChanges,
    moderated_variances,
    standard_error,
    t_quantile,
)

_FIRST_LOOK, _FACTOR = 4, 4
_SMALLEST = 1e-12
"""A divergence, or a variance of logarithms, that is as good as none."""


def looks(count: int) -> list[int]:
    """Numbers of sequences after which a test looks at its changes."""
    found = [count]
    while found[0] >= 2 * _FIRST_LOOK:
        found.insert(0, max(_FIRST_LOOK, found[0] // _FACTOR))
    return found


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """The test of one role.

    Args:
        least_effect: the minimum effect, in nats.
        significance: the significance level of one look of one test.
        others_bound: the bound from effects of heads without the role.
        other_count: number of these heads.
    """

    least_effect: float
    significance: float
    others_bound: float
    other_count: int

    @property
    def bound(self) -> float:
        """What an interval must be clear of."""
        return max(self.least_effect, self.others_bound)

    def decided(self, changes: MetricChanges, *, positive: bool) -> NDArray[np.bool_]:
        """Which tests end before the last look.

        Args:
            changes: by sequence and test.
            positive: whether changes are divergences.
        """
        if positive:
            return self._decided_by_logarithms(changes)
        reach = t_quantile(len(changes) - 1, self.significance) * standard_error(changes)
        return np.abs(changes.mean(axis=0) - self.bound) > reach

    def evidence(self, probe: pb.CausalProbe.ValueType, changes: MetricChanges, *, is_last: bool) -> pb.CausalEvidence:
        """The evidence of a test that ends here.

        Args:
            probe: what was done.
            changes: by sequence.
            is_last: whether no look is left; before, the interval is clear of the bound.
        """
        threshold = EffectThreshold(self.least_effect, self.significance, self.others_bound, self.other_count)
        found = threshold.evidence(probe, changes)
        if not is_last:
            found.bound_nats = self.bound
            found.bound = threshold.fixed_bound
            found.is_passed = found.effect_nats > self.bound
        return found

    def _decided_by_logarithms(self, changes: MetricChanges) -> NDArray[np.bool_]:
        count = len(changes)
        logs = np.log(np.maximum(changes, _SMALLEST))
        variances = logs.var(axis=0, ddof=1)
        varies = variances > _SMALLEST
        freedom = np.full(len(variances), float(count - 1))
        if varies.any():
            variances[varies], shared = moderated_variances(variances[varies], count - 1)
            freedom[varies] = shared
        quantiles = np.array([t_quantile(each, self.significance) for each in freedom])
        reach = quantiles * np.sqrt(variances / count)
        middle = logs.mean(axis=0)
        passes = middle - reach > np.log(self.bound)
        # The mean of a log-normal lies above the exponential of its mean logarithm.
        fails = middle + variances / 2 + reach < np.log(self.bound)
        return (passes & (changes.mean(axis=0) > self.bound)) | (fails & (changes.mean(axis=0) < self.bound))
