"""Copying scores of heads: the eigenvalues of their OV circuits from token to token.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits". The gains of the norm before attention and of
the final norm are included; their divisors have no sign, and their centring is ignored. The circuit (vocabulary x
vocabulary) has the eigenvalues of W_O (W_U W_E) W_V, which is (d_head, d_head).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import UnavailableSiteError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.weights import WEIGHTS, Weights
from neuroscope_analysis.attention.copied_tokens import TokenSample
from neuroscope_analysis.attention.patterns import Floats
from neuroscope_analysis.remote_model import RemoteModel

COPYING_WEIGHTS = ("W_E", "W_U", "W_V", "W_O")
_NORMS = "norms"
_NOTHING = 1e-9
"""A circuit with less than this share of the product of its factors' norms counts as zero."""

Matrix = NDArray[np.float64]


async def why_unavailable(
    model: RemoteModel, layers: Sequence[int], budget_bytes: int, names: Sequence[str] = COPYING_WEIGHTS
) -> str:
    """Why the weights cannot be read; empty if they can."""
    try:
        plan = await model.weights(*names, layers=layers, content="plan")
    except UnavailableSiteError as error:
        return error.message
    by_layer = [name for name in names if WEIGHTS[name].has_layer]
    lacking = [layer for layer in layers if not {(name, layer) for name in by_layer} <= set(plan.places)]
    if lacking:
        return f"layers {', '.join(map(str, lacking))} have no {' and '.join(by_layer)}"
    if plan.nbytes > budget_bytes:
        return (
            f"its weights take {plan.nbytes / 1e9:.1f} GB, and the setting weights_budget_bytes allows "
            f"{budget_bytes / 1e9:.1f}"
        )
    return ""


@dataclass(frozen=True, slots=True)
class CopyingScores:
    """What weights say about copying, by layer and head; NaN for missing heads.

    Args:
        scores: the sum of the eigenvalues over the sum of their magnitudes: 1 copies, -1 suppresses.
        copied: the share of tokens that the head copies.
        suppressed: the share of tokens that it suppresses.
        sample: the tokens.
    """

    scores: Floats
    copied: Floats
    suppressed: Floats
    sample: TokenSample

    def of_role(self, role: pb.HeadRole.ValueType) -> tuple[Floats, Floats]:
        """Scores and shares of a role."""
        return (-self.scores, self.suppressed) if role == pb.HEAD_ROLE_SUPPRESSION else (self.scores, self.copied)


async def copying_scores(model: RemoteModel, layers: Sequence[int], heads: int, sample: TokenSample) -> CopyingScores:
    """Scores every head.

    Args:
        model: the model.
        layers: the layers.
        heads: maximum number of heads of a layer.
        sample: the tokens of the shares.
    """
    ends = await model.weights("W_E", "W_U", "final_norm.w")
    between = await asyncio.to_thread(_tokens_to_logits, ends)
    read = sample.centred_embeddings(ends.of("W_E").astype(np.float32))
    gain = ends.of("final_norm.w").astype(np.float32)
    unembedding = gain[:, None] * ends.of("W_U")[:, sample.ids].astype(np.float32)
    found = np.full((3, len(layers), heads), np.nan, np.float32)
    for place, layer in enumerate(layers):
        weights = await model.weights("W_V", "W_O", _NORMS, layers=[layer])

        def score(weights: Weights = weights, layer: int = layer) -> list[tuple[float, float, float]]:
            return [
                (
                    _score(output.astype(np.float64), between, value.astype(np.float64)),
                    *sample.shares(read, value.astype(np.float32), output.astype(np.float32), unembedding),
                )
                for value, output in _heads(weights, layer)
            ]

        scores = await asyncio.to_thread(score)
        found[:, place, : len(scores)] = np.transpose(scores)
    return CopyingScores(found[0], found[1], found[2], sample)


def _tokens_to_logits(weights: Weights) -> Matrix:
    """W_U W_E (d_model, d_model), with the gain of the final norm."""
    embedding, unembedding = weights.of("W_E"), weights.of("W_U")
    gain = weights.of("final_norm.w").astype(np.float64)
    return gain[:, None] * (unembedding @ embedding).astype(np.float64)


def _heads(weights: Weights, layer: int) -> list[tuple[Any, Any]]:
    """W_V with the gain of the norm before attention (d_model, d_head), and W_O (d_head, d_model), of each head."""
    values, outputs = weights.ov(layer).A, weights.ov(layer).B
    if "ln1.w" in weights.names:
        values = weights.of("ln1.w", layer)[:, None] * values
    return list(zip(values, outputs, strict=True))


def _score(output: Matrix, between: Matrix, value: Matrix) -> float:
    """The score of one head: output (d_head, d_model), value (d_model, d_head)."""
    eigenvalues = np.linalg.eigvals(output @ between @ value)
    size = float(np.abs(eigenvalues).sum())
    most = float(np.linalg.norm(output) * np.linalg.norm(between) * np.linalg.norm(value))
    return 0.0 if size <= _NOTHING * most else float(eigenvalues.sum().real) / size
