"""Models whose weights are noise: they answer to what they read, and know nothing.

Weights of a planted model permuted within each matrix are no match for a test of noise: its matrices are so sparse that
what one head writes is read by none, and no prompt makes a difference. These have its shape, and an entry everywhere.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.truth import reweighted
from tests.truth.planted import FIRST_TOKEN, VOCABULARY

_EMBEDDINGS = ("embed_tokens", "wte", "wpe")
_ATTENDING = ("q_proj", "k_proj", "c_attn")
_LENGTH = 8


def noise(folder: Path, target: Path, seed: int) -> Path:
    """Writes a model of the shape of a folder's model and gives its folder, made if missing.

    Entries are normal, of such a size that each matrix keeps that of what it reads, and that attention has favourites.

    Args:
        folder: with one file of weights.
        target: where.
        seed: of the entries.
    """
    random = np.random.default_rng(seed)
    weights = {}
    for name, array in reweighted.read(folder).items():
        part = name.split(".")[-2]
        if array.ndim == 1:
            weights[name] = np.full_like(array, 0 if name.endswith("bias") else 1)
            continue
        gain = 1.5 if part in _ATTENDING else 1.0
        size = 1.0 if part in _EMBEDDINGS else gain / np.sqrt(array.shape[1])
        weights[name] = (random.standard_normal(array.shape) * size).astype(np.float32)
    return reweighted.write(folder, target, weights)


def random_pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts of random tokens, beside each with one of them another one, and two random tokens to tell apart.

    No prompt says anything of its answer, and no pair anything of another.
    """
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for _ in range(count):
        clean = random.integers(FIRST_TOKEN, VOCABULARY, _LENGTH)
        corrupted, place = clean.copy(), random.integers(1, _LENGTH - 1)
        corrupted[place] = random.choice(np.setdiff1d(np.arange(FIRST_TOKEN, VOCABULARY), clean[place]))
        answer, other = random.choice(np.arange(FIRST_TOKEN, VOCABULARY), 2, replace=False).tolist()
        found.append({"clean": clean.tolist(), "corrupted": corrupted.tolist(), "answer": answer, "other": other})
    return found
