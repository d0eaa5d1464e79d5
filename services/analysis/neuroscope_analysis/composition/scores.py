"""Composition scores of heads (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

    Q    |W_OV^1 W_QK^2|   / (|W_OV^1| |W_QK^2|)      Frobenius norms; activations are row vectors
    K    |W_OV^1 W_QK^2^T| / (|W_OV^1| |W_QK^2|)
    V    |W_OV^1 W_OV^2|   / (|W_OV^1| |W_OV^2|)

The low-rank products W_OV = W_V W_O and W_QK = W_Q W_K^T are never formed. The Frobenius norm is invariant under
rotation, so an outer factor is replaced by the R of its QR decomposition (d_head, d_head). The reader's matrices
include the gain of its input norm and, for LayerNorm, its centring. The writer's include the gain of a norm after
attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import composition_pb2 as pb
from neuroscope.weights import Weights

Matrix = NDArray[np.float64]
KINDS = {
    "q_composition": pb.COMPOSITION_KIND_Q,
    "k_composition": pb.COMPOSITION_KIND_K,
    "v_composition": pb.COMPOSITION_KIND_V,
}
"""Arrays of the result by kind."""
_MIN_NORM = 1e-30


@dataclass(frozen=True, slots=True)
class HeadFactors:
    """Factors of the heads of one layer, as writers and as readers.

    Args:
        written: (head, d_head, d_model), with the Frobenius norm of W_OV.
        read: by array (head, d_model, d_head), with the Frobenius norm of W_QK or W_OV.
    """

    written: Matrix
    read: dict[str, Matrix]

    @classmethod
    def from_weights(cls, weights: Weights, layer: int) -> HeadFactors:
        """The factors of a layer; `weights` has its W_Q, W_K, W_V, W_O and norms."""
        queries, values, outputs = (weights.of(name, layer).astype(np.float64) for name in ("W_Q", "W_V", "W_O"))
        keys = weights.of("W_K", layer).astype(np.float64)
        shared = [weights.key_value_head(head) for head in range(len(queries))]
        keys, values = keys[shared], values[shared]
        if "ln1.w" in weights.names:
            gain = weights.of("ln1.w", layer).astype(np.float64)[:, None]
            queries, keys, values = gain * queries, gain * keys, gain * values
        if _is_centred(weights, "ln1", layer):
            queries, keys, values = (each - each.mean(axis=1, keepdims=True) for each in (queries, keys, values))
            outputs = outputs - outputs.mean(axis=2, keepdims=True)
        if "ln1_post.w" in weights.names:
            outputs = outputs * weights.of("ln1_post.w", layer).astype(np.float64)
        return cls.from_matrices(queries, keys, values, outputs)

    @classmethod
    def from_matrices(cls, queries: Matrix, keys: Matrix, values: Matrix, outputs: Matrix) -> HeadFactors:
        """The factors of queries, keys and values (head, d_model, d_head) and outputs (head, d_head, d_model)."""
        of_outputs = outputs.swapaxes(1, 2)
        return cls(
            _qr_triangle(values) @ outputs,
            {
                "q_composition": queries @ _qr_triangle(keys).swapaxes(1, 2),
                "k_composition": keys @ _qr_triangle(queries).swapaxes(1, 2),
                "v_composition": values @ _qr_triangle(of_outputs).swapaxes(1, 2),
            },
        )


def composition_scores(writers: HeadFactors, readers: HeadFactors, kind: str) -> Matrix:
    """Scores of all heads of a layer with all heads of a later layer (writer, reader)."""
    read = readers.read[kind]
    rows, inner, width = writers.written.shape
    columns, _, outer = read.shape
    product = writers.written.reshape(rows * inner, width) @ read.swapaxes(0, 1).reshape(width, columns * outer)
    norms = np.sqrt(np.square(product).reshape(rows, inner, columns, outer).sum(axis=(1, 3)))
    sizes = np.linalg.norm(writers.written, axis=(1, 2))[:, None] * np.linalg.norm(read, axis=(1, 2))[None, :]
    return np.where(sizes > _MIN_NORM, norms / np.maximum(sizes, _MIN_NORM), 0.0)


def random_baselines(width: int, d_head: int, count: int, seed: int) -> Iterable[pb.CompositionBaseline]:
    """Scores of heads with normally distributed random factors.

    Args:
        width: d_model.
        d_head: d_head.
        count: number of random pairs.
        seed: seed of the draws.
    """
    random = np.random.default_rng(seed)

    def drawn() -> HeadFactors:
        shapes = [(1, width, d_head)] * 3 + [(1, d_head, width)]
        return HeadFactors.from_matrices(*(random.standard_normal(shape) for shape in shapes))

    pairs = [(drawn(), drawn()) for _ in range(count)]
    for name, kind in KINDS.items():
        scores = np.array([composition_scores(writer, reader, name)[0, 0] for writer, reader in pairs])
        yield pb.CompositionBaseline(kind=kind, mean=scores.mean(), standard_deviation=scores.std(ddof=1))


def _qr_triangle(matrix: Matrix) -> Matrix:
    """The R of the QR decomposition of each head (head, d_head, d_head)."""
    return np.asarray(np.linalg.qr(matrix, mode="r"), np.float64)


def _is_centred(weights: Weights, name: str, layer: int) -> bool:
    return any(norm.name == name and norm.layer == layer and norm.is_centred for norm in weights.plan.norms)
