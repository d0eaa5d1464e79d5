"""Noise beside a mechanism: a planted model whose idle heads and neurons are filled with noise that has no effect.

Every head of a planted llama that writes nothing, and every neuron that does not, gets normal weights. By turns a head

    reads all, writes JUNK      it carries what tells the prompts apart, to where nobody reads it
    reads flags, writes all     it is heard everywhere, and says the same in both prompts

where flags are dimensions that say what kind of token stands where, which both prompts of a pair share. Neurons
read all but JUNK and write it. So what is planted is true as before, and there are many edges that look like something.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.truth import reweighted
from tests.truth.planted import Matrix, Stream

_LOUD, _QUIET = 0.5, 0.005
"""Of what is written to JUNK, and to all subspaces: the latter must leave the mechanism as it is."""


def beside(folder: Path, target: Path, seed: int, stream: Stream, flags: Sequence[str]) -> Path:
    """Writes the model with noise in it and gives its folder, made if missing.

    Args:
        folder: of a planted llama.
        target: where.
        seed: of the noise.
        stream: its subspaces.
        flags: those that both prompts of a pair share.
    """
    random = np.random.default_rng(seed)
    weights = {name: array.astype(np.float64) for name, array in reweighted.read(folder).items()}
    every = _dimensions(stream, stream.names)
    heard = _dimensions(stream, [name for name in stream.names if name != "JUNK"])
    shared, junk = _dimensions(stream, flags), _dimensions(stream, ["JUNK"])

    def reading(rows: int, dimensions: NDArray[np.intp]) -> Matrix:
        found = np.zeros((rows, stream.d_model))
        found[:, dimensions] = random.standard_normal((rows, len(dimensions))) * stream.divisor
        return found

    def writing(columns: int, dimensions: NDArray[np.intp], size: float) -> Matrix:
        found = np.zeros((stream.d_model, columns))
        found[dimensions] = random.standard_normal((len(dimensions), columns)) * size / np.sqrt(columns)
        return found

    for layer in range(sum(name.endswith("o_proj.weight") for name in weights)):
        block = f"model.layers.{layer}"
        output = weights[f"{block}.self_attn.o_proj.weight"]
        for head in range(stream.heads):
            columns = slice(head * stream.d_head, (head + 1) * stream.d_head)
            if output[:, columns].any():
                continue
            is_loud = bool((layer + head + seed) % 2)
            for part in "qkv":
                rows = reading(stream.d_head, every if is_loud else shared)
                weights[f"{block}.self_attn.{part}_proj.weight"][columns] = rows
            written, size = (junk, _LOUD) if is_loud else (every, _QUIET)
            output[:, columns] = writing(stream.d_head, written, size)
        down = weights[f"{block}.mlp.down_proj.weight"]
        idle = np.flatnonzero(~down.any(axis=0))
        for part in ("gate", "up"):
            weights[f"{block}.mlp.{part}_proj.weight"][idle] = reading(len(idle), heard)
        down[:, idle] = writing(len(idle), junk, _LOUD)
    single = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    return reweighted.write(folder, target, single)


def _dimensions(stream: Stream, names: Sequence[str]) -> NDArray[np.intp]:
    return np.concatenate([np.arange(stream[name].start, stream[name].stop) for name in names])
