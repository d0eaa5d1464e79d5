"""Null models: the weights of a model, permuted within each matrix. What is found in one of them is not there.

Entries keep their distribution and lose their places, so that size and shape of every layer are the model's own and
nothing of its mechanism is left.
"""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_WEIGHTS = "model.safetensors"


def permuted(folder: Path, target: Path, seed: int) -> Path:
    """Writes a null model of a folder's model and gives its folder, made if missing.

    Args:
        folder: with one file of weights.
        target: where.
        seed: of the permutations.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and file.name != _WEIGHTS:
            shutil.copy(file, target)
    random = np.random.default_rng(seed)
    weights = {
        name: random.permutation(array.reshape(-1)).reshape(array.shape)
        for name, array in sorted(load_file(folder / _WEIGHTS).items())
    }
    save_file(weights, target / _WEIGHTS, metadata={"format": "mlx"})
    return target
