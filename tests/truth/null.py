"""Null models: the weights of a model, permuted within each matrix. What is found in one of them is not there.

Entries keep their distribution and lose their places, so that size and shape of every layer are the model's own and
nothing of its mechanism is left.
"""

from pathlib import Path

import numpy as np

from tests.truth import reweighted


def permuted(folder: Path, target: Path, seed: int) -> Path:
    """Writes a null model of a folder's model and gives its folder, made if missing.

    Args:
        folder: with one file of weights.
        target: where.
        seed: of the permutations.
    """
    random = np.random.default_rng(seed)
    weights = {
        name: random.permutation(array.reshape(-1)).reshape(array.shape)
        for name, array in reweighted.read(folder).items()
    }
    return reweighted.write(folder, target, weights)
