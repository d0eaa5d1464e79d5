"""Methods that find a direction between two sets of activations, and its cross-validated accuracy.

The norm of a direction v is the distance between the sets along it: v = u (u · (mean of positives - mean of
negatives)), |u| = 1. A coefficient of 1 thus shifts an activation by that distance, for any method and layer.

    mean_difference        u along the difference of the means (Rimsky et al. 2024, arXiv:2312.06681; Marks and Tegmark
                           2023, arXiv:2310.06824)
    principal_component    u is the first principal component of the pairs' differences and their negatives (Zou et al.
                           2023, arXiv:2310.01405); the sets must be pairs
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
    """Accuracy of a direction on held-out activations, by cross-validation.

    Args:
        correct: number of activations on the correct side of the midpoint between the sets' means.
        count: number of tested activations; 0 if there are too few to hold any out.
    """

    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """Share of correct activations; NaN if none was tested."""
        return self.correct / self.count if self.count else math.nan

    @property
    def p_value(self) -> float:
        """p-value against chance: the upper tail of the binomial distribution."""
        ways = sum(math.comb(self.count, correct) for correct in range(self.correct, self.count + 1))
        return ways / 2**self.count

    @property
    def is_significant(self) -> bool:
        """Whether the accuracy is above chance (p < 0.05)."""
        return self.count > 0 and self.p_value < _CHANCE


NOT_TESTED = Separation(0, 0)


def find(method: str, positives: Matrix, negatives: Matrix) -> Vector:
    """The direction from negatives to positives.

    Args:
        method: one of `METHODS`.
        positives, negatives: (prompts, width); pairs for `principal_component`.

    Raises:
        InvalidRequestError: the method is unknown, the sets are not pairs but must be, or the sets do not differ.
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
    """Cross-validated accuracy of a method's directions.

    Each of at most ten folds holds out every n-th activation of both sets. Sets of fewer than two are not tested.

    Args:
        method, positives, negatives: as in `find`.
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
        except InvalidRequestError:  # the rest of the sets does not differ
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
    # The differences and their negatives have mean 0, so this is the first right singular vector of the differences.
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
"""By name: functions of positives and negatives that return a vector along the direction."""
