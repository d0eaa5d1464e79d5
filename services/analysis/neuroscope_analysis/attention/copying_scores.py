"""Copying scores of heads: the eigenvalues of their OV circuits from token to token.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits". The gains of the norm before attention and of
the final norm are included; their divisors have no sign, and their centring is ignored. The circuit (vocabulary x
vocabulary) has the eigenvalues of W_O (W_U W_E) W_V, which is (d_head, d_head).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import UnavailableSiteError
from neuroscope.weights import WEIGHTS, Weights
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


async def copying_scores(model: RemoteModel, layers: Sequence[int], heads: int) -> Floats:
    """The sum of the eigenvalues over the sum of their magnitudes (layer, head): 1 copies, -1 suppresses.

    Args:
        model: the model.
        layers: the layers.
        heads: maximum number of heads of a layer; NaN for missing heads.
    """
    between = await asyncio.to_thread(_tokens_to_logits, await model.weights("W_E", "W_U", "final_norm.w"))
    found = np.full((len(layers), heads), np.nan, np.float32)
    for place, layer in enumerate(layers):
        weights = await model.weights("W_V", "W_O", _NORMS, layers=[layer])
        scores = await asyncio.to_thread(_layer_scores, weights, layer, between)
        found[place, : len(scores)] = scores
    return found


def _tokens_to_logits(weights: Weights) -> Matrix:
    """W_U W_E (d_model, d_model), with the gain of the final norm."""
    embedding, unembedding = weights.of("W_E"), weights.of("W_U")
    gain = weights.of("final_norm.w").astype(np.float64)
    return gain[:, None] * (unembedding @ embedding).astype(np.float64)


def _layer_scores(weights: Weights, layer: int, between: Matrix) -> list[float]:
    """The scores of a layer's heads."""
    values, outputs = weights.ov(layer).A.astype(np.float64), weights.ov(layer).B.astype(np.float64)
    if "ln1.w" in weights.names:
        values = weights.of("ln1.w", layer).astype(np.float64)[:, None] * values
    return [_score(output, between, value) for value, output in zip(values, outputs, strict=True)]


def _score(output: Matrix, between: Matrix, value: Matrix) -> float:
    """The score of one head: output (d_head, d_model), value (d_model, d_head)."""
    eigenvalues = np.linalg.eigvals(output @ between @ value)
    size = float(np.abs(eigenvalues).sum())
    most = float(np.linalg.norm(output) * np.linalg.norm(between) * np.linalg.norm(value))
    return 0.0 if size <= _NOTHING * most else float(eigenvalues.sum().real) / size
