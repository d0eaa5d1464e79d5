"""The output weights of heads and neurons, and the norms after attention and MLP.

A norm after attention or MLP (gemma2, gemma3, olmo2) is frozen at its divisor in the run, so that the output of
attention is the sum over heads and biases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import UnavailableSiteError
from neuroscope.weights import Weights
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.frozen_norm import FrozenNorm

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
HEAD_OUTPUT, NEURONS = "head_output", "mlp_neurons"
_NORMS = "norms"


@dataclass(frozen=True, slots=True)
class PostNorm:
    """Norm and scale between an output and the residual stream.

    Args:
        norm: the frozen norm, or None.
        scale: scale of the output.
    """

    norm: FrozenNorm | None
    scale: float

    @classmethod
    def from_weights(cls, weights: Weights, name: str, layer: int, width: int) -> PostNorm:
        """The post norm of the attention (`ln1_post`) or the MLP (`ln2_post`) of a layer."""
        scales = {each.layer: each.contribution_scale for each in weights.plan.layers}
        norm = FrozenNorm.from_weights(weights, name, layer, width) if (f"{name}.w", layer) in weights.places else None
        return cls(norm, scales.get(layer, 1.0) or 1.0)

    def apply(self, written: Floats) -> Floats:
        """Applies norm and scale to outputs (..., d_model), without divisor and shift."""
        found = written if self.norm is None else self.norm.apply(written)
        return (found * self.scale).astype(np.float32)

    def divisor(self, output: Floats) -> Doubles:
        """The divisor of the norm for an output (..., d_model): (...); 1 without a norm."""
        return np.ones(output.shape[:-1]) if self.norm is None else self.norm.divisor(output)

    @property
    def shift(self) -> Doubles | float:
        """The shift of the norm."""
        return 0.0 if self.norm is None else self.norm.shift * self.scale


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The output weights of the heads of one layer. The output of attention is the sum over heads of z @ output /
    divisor, plus bias / divisor, plus the shift of the post norm.

    Args:
        output: (head, d_head, d_model).
        bias: (d_model,).
        post_norm: norm and scale after attention.
    """

    output: Floats
    bias: Floats
    post_norm: PostNorm

    @property
    def gram(self) -> Floats:
        """The Gram matrix of each head's output weights (head, d_head, d_head)."""
        return np.einsum("hid,hjd->hij", self.output, self.output, optimize=True)

    def dot(self, directions: Floats) -> Floats:
        """Dot products of each head's output weights with directions (n, d_model): (n, head, d_head)."""
        heads, width, d_model = self.output.shape
        return (directions @ self.output.reshape(-1, d_model).T).reshape(-1, heads, width)


async def why_heads_unavailable(model: RemoteModel, budget_bytes: int) -> str:
    """Why heads cannot be separated; empty if they can."""
    layers = model.layers(HEAD_OUTPUT)
    if not layers:
        return "no layer has heads whose outputs can be read"
    try:
        plan = await model.weights("W_O", layers=layers, content="plan")
    except UnavailableSiteError as error:
        return error.message
    if missing := [layer for layer in layers if ("W_O", layer) not in plan.places]:
        return f"layers {', '.join(map(str, missing))} have no W_O"
    if plan.nbytes > budget_bytes:
        return (
            f"their matrices take {plan.nbytes / 1e9:.1f} GB, and the setting weights_budget_bytes allows "
            f"{budget_bytes / 1e9:.1f}"
        )
    return ""


async def read_heads(model: RemoteModel) -> dict[int, HeadWeights]:
    """Reads the output weights of heads in all layers."""
    found: dict[int, HeadWeights] = {}
    width = model.info.model.d_model
    for layer in model.layers(HEAD_OUTPUT):
        weights = await model.weights("ov", _NORMS, layers=[layer])
        found[layer] = await asyncio.to_thread(_heads_of, weights, layer, width)
    return found


def _heads_of(weights: Weights, layer: int, width: int) -> HeadWeights:
    behind = PostNorm.from_weights(weights, "ln1_post", layer, width)
    bias = weights.of("b_O", layer) if ("b_O", layer) in weights.places else np.zeros(width, np.float32)
    return HeadWeights(behind.apply(weights.of("W_O", layer)), behind.apply(bias), behind)


async def neuron_directions(model: RemoteModel, layer: int, directions: Doubles) -> tuple[Doubles, PostNorm]:
    """Dot products of each neuron's output weights with directions (n, d_model), without divisor: (d_mlp, n)."""
    weights = await model.weights("mlp", _NORMS, layers=[layer])
    behind = PostNorm.from_weights(weights, "ln2_post", layer, directions.shape[1])
    back = directions if behind.norm is None else behind.norm.apply_transpose(directions)
    written = await asyncio.to_thread(np.matmul, weights.of("W_out", layer).astype(np.float64), back.T)
    return written * behind.scale, behind


def max_head_count(heads: Mapping[int, HeadWeights]) -> int:
    """Maximum number of heads of a layer."""
    return max((len(each.output) for each in heads.values()), default=0)
