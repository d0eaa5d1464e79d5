"""A tensor in few numbers, for fixtures of models whose tensors are too large to keep. numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def summarise(array: NDArray[Any], values: int = 4) -> NDArray[np.float32]:
    """For each position the norm of all that it has, then some of the entries themselves, evenly apart.

    Args:
        array: (position, ...), rows of at least so many entries.
        values: entries of each position.

    Returns:
        (position, 1 + values)
    """
    rows = array.reshape(len(array), -1).astype(np.float64)
    chosen = np.linspace(0, rows.shape[1] - 1, values).round().astype(int)
    return np.concatenate([np.linalg.norm(rows, axis=1)[:, None], rows[:, chosen]], axis=1).astype(np.float32)
