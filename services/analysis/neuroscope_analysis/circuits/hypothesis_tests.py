"""Tests of hypotheses about a circuit (after Shi et al. 2024, arXiv:2410.13032), from runs of its evaluation.

equivalence    H0: the circuit and the model are equally likely to have the larger metric on a pair. Sign test.
independence   H0: over the pairs, the metric of the model without the circuit is independent of the model's metric.
               Permutation test with the Hilbert-Schmidt independence criterion (Gretton et al. 2007), Gaussian kernels
               as wide as the median distance.

A small p-value of the first says that the circuit is not the whole model; of the second, that what is outside of the
circuit still tells the pairs apart.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from neuroscope_analysis.circuits.pair_runs import Values

MIN_PAIRS = 8
"""With fewer pairs a sign test cannot reach a p-value of 0.01."""
_PERMUTATIONS = 999
_SEED = 0


def equivalence_p_value(circuit: Values, model: Values) -> float:
    """The p-value of the sign test; pairs with equal metrics are left out.

    Args:
        circuit: metric of the circuit's runs (pairs,).
        model: metric of the clean runs (pairs,).
    """
    differences = circuit - model
    larger, unequal = int((differences > 0).sum()), int((differences != 0).sum())
    return float(cast("Any", stats).binomtest(larger, unequal).pvalue) if unequal else 1.0


def independence_p_value(complement: Values, model: Values) -> float:
    """The p-value of the permutation test; 1 if one of the metrics is constant.

    Args:
        complement: metric of the model without the circuit (pairs,).
        model: metric of the clean runs (pairs,).
    """
    if np.ptp(complement) == 0 or np.ptp(model) == 0:
        return 1.0
    kernel, other = _kernel(complement), _centred(_kernel(model))
    observed = float((kernel * other).sum())
    draws = np.random.default_rng(_SEED)
    at_least = 1
    for _ in range(_PERMUTATIONS):
        order = draws.permutation(len(kernel))
        at_least += float((kernel[np.ix_(order, order)] * other).sum()) >= observed
    return at_least / (_PERMUTATIONS + 1)


def _kernel(values: Values) -> NDArray[np.float64]:
    distances = np.abs(values[:, None] - values[None])
    width = float(np.median(distances[distances > 0]))
    return np.exp(-0.5 * (distances / width) ** 2)


def _centred(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    return kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
