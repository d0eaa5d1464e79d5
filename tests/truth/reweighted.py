"""A model like another one but for its weights."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

_WEIGHTS = "model.safetensors"


def read(folder: Path) -> dict[str, Any]:
    """The weights of a folder's model, which has one file of them, in the order of their names."""
    return dict(sorted(load_file(folder / _WEIGHTS).items()))


def write(folder: Path, target: Path, weights: Mapping[str, Any]) -> Path:
    """Writes the folder's model with other weights and gives its folder, made if missing."""
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and file.name != _WEIGHTS:
            shutil.copy(file, target)
    save_file(dict(weights), target / _WEIGHTS, metadata={"format": "mlx"})
    return target
