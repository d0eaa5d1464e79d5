"""How well scores tell what is planted from what is not."""

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


def auroc(scores: Mapping[Name, float], true: Collection[Name]) -> float:
    """How often one that is planted has a larger score than one that is not; ties count half."""
    inside = np.array([score for name, score in scores.items() if name in true])
    outside = np.array([score for name, score in scores.items() if name not in true])
    assert len(inside) == len(true)
    return float((inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean())
