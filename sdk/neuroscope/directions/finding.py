"""How a direction is found between two sets of activations, and how well it tells them apart.

Every direction v is as long as the two sets are apart along it: v = u (u · (mean of positives - mean of negatives)),
|u| = 1. So a coefficient of 1 shifts an activation by what separates the sets, whatever the method and the layer.

    mean_difference        u along the difference of the means (Rimsky et al. 2024, arXiv:2312.06681; Marks and Tegmark
                           2023, arXiv:2310.06824)
    principal_component    u is the first principal component of the differences of pairs, each in both directions (Zou
                           et al. 2023, arXiv:2310.01405); the sets are pairs
    probe                  u along the weights of a logistic regression on standardised activations (Alain and Bengio
                           2017, arXiv:1610.01644); needs scikit-learn
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError

Matrix = NDArray[np.float64]
"""Activations (prompts, width)."""
Vector = NDArray[np.float64]
_MOST_FOLDS = 10
_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a direction tells activations apart that it was not found from, by cross-validation.

    Args:
        correct: activations on the right side of the middle between the sets' means.
        count: activations that were tried; 0: there are too few to leave any out.
    """

    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """Part of them on the right side; NaN where none was tried."""
        return self.correct / self.count if self.count else math.nan

    @property
    def p_value(self) -> float:
        """How likely coin tosses are to do as well: the upper tail of the binomial distribution."""
        ways = sum(math.comb(self.count, correct) for correct in range(self.correct, self.count + 1))
        return ways / 2**self.count

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance: p < 0.05."""
        return self.count > 0 and self.p_value < _CHANCE


NOT_TESTED = Separation(0, 0)


def find(method: str, positives: Matrix, negatives: Matrix) -> Vector:
    """The direction from negatives to positives.

    Args:
        method: of `METHODS`.
        positives, negatives: (prompts, width); as many of both, pair by pair, for `principal_component`.

    Raises:
        InvalidRequestError: there is no such method, sets that should be pairs are not, or the sets do not differ.
    """
    if method not in METHODS:
        raise InvalidRequestError(f"there is no method {method!r}; there are {', '.join(METHODS)}", field="method")
    if method == "principal_component" and len(positives) != len(negatives):
        raise InvalidRequestError(
            f"principal_component takes pairs, not {len(positives)} and {len(negatives)} prompts", field="negative"
        )
    difference = positives.mean(0) - negatives.mean(0)
    if not difference.any():
        raise InvalidRequestError("both sets have the same mean: nothing lies between them", field="negative")
    along = METHODS[method](positives, negatives)
    unit = along / np.linalg.norm(along)
    return unit * (unit @ difference)


def separation(method: str, positives: Matrix, negatives: Matrix) -> Separation:
    """How well the method's directions tell apart what was left out when they were found.

    Each fold leaves out every tenth pair, or every n-th where there are fewer; with fewer than two in a set nothing can
    be left out.

    Args:
        method, positives, negatives: as of `find`.
    """
    fewest = min(len(positives), len(negatives))
    if fewest < 2:
        return NOT_TESTED
    correct = count = 0
    folds = min(_MOST_FOLDS, fewest)
    for fold in range(folds):
        kept_positives, left_positives = _split(positives, fold, folds)
        kept_negatives, left_negatives = _split(negatives, fold, folds)
        count += len(left_positives) + len(left_negatives)
        try:
            direction = find(method, kept_positives, kept_negatives)
        except InvalidRequestError:  # what is left does not differ: nothing is told apart
            continue
        middle = direction @ (kept_positives.mean(0) + kept_negatives.mean(0)) / 2
        correct += int(np.sum(left_positives @ direction > middle) + np.sum(left_negatives @ direction < middle))
    return Separation(correct, count)


def _split(rows: Matrix, fold: int, folds: int) -> tuple[Matrix, Matrix]:
    left = np.arange(len(rows)) % folds == fold
    return rows[~left], rows[left]


def _mean_difference(positives: Matrix, negatives: Matrix) -> Vector:
    return positives.mean(0) - negatives.mean(0)


def _principal_component(positives: Matrix, negatives: Matrix) -> Vector:
    # Of the differences and their negatives, whose mean is 0: the first right singular vector of the differences.
    return np.linalg.svd(positives - negatives, full_matrices=False)[2][0]


def _probe(positives: Matrix, negatives: Matrix) -> Vector:
    try:
        from sklearn import linear_model  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError:
        raise InvalidRequestError(
            "the method probe needs scikit-learn: pip install 'neuroscope-mlx[probes]'", field="method"
        ) from None
    rows = np.concatenate([positives, negatives])
    spread = rows.std(0)
    spread[spread == 0] = 1
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    regression: Any = linear_model.LogisticRegression(max_iter=1000)
    fitted = regression.fit((rows - rows.mean(0)) / spread, labels)
    return np.asarray(fitted.coef_[0], np.float64) / spread


METHODS: Mapping[str, Callable[[Matrix, Matrix], Vector]] = {
    "mean_difference": _mean_difference,
    "principal_component": _principal_component,
    "probe": _probe,
}
"""By name: from positives and negatives to something along the direction."""
