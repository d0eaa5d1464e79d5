"""How far a median can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 90 % bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(np.array(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.05, 0.95])
    return float(low), float(high)
