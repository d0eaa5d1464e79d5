"""The LM head: final norm and unembedding, as directions in the residual stream.

With a frozen final norm a logit is linear in the residual stream (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; TransformerLens' `logit_attrs`):

    logit = softcap(sum over components of component . direction / divisor + constant)
    direction = logit_scale * centred(gain * W_U[:, token])       centred for LayerNorm only
    constant = logit_scale * (bias . W_U[:, token] + b_U[token])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import UnavailableSiteError
from neuroscope.weights import Weights
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.frozen_norm import FrozenNorm

Doubles = NDArray[np.float64]
_GROUP = "unembedding"


async def why_unavailable(model: RemoteModel, budget_bytes: int) -> str:
    """Why logits cannot be attributed; empty if they can."""
    try:
        plan = await model.weights(_GROUP, content="plan")
    except UnavailableSiteError as error:
        return error.message
    if "W_U" not in plan:
        return plan.missing.get("W_U", "the unembedding is not known")
    if plan.nbytes > budget_bytes:
        return (
            f"the unembedding takes {plan.nbytes / 1e9:.1f} GB, and the setting weights_budget_bytes allows "
            f"{budget_bytes / 1e9:.1f}"
        )
    return ""


@dataclass(frozen=True, slots=True)
class LMHead:
    """Final norm and unembedding.

    Args:
        norm: the final norm.
        unembedding: float32 (d_model, vocabulary).
        bias: bias of the unembedding (vocabulary,), or None.
        logit_scale: scale of the logits.
        softcap: softcap tanh(y / softcap) is applied last; None: no softcap.
    """

    norm: FrozenNorm
    unembedding: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    logit_scale: float
    softcap: float | None

    @classmethod
    async def read(cls, model: RemoteModel) -> LMHead:
        """Reads the LM head of a model."""
        weights = await model.weights(_GROUP)
        plan = weights.plan
        return cls(
            FrozenNorm.from_weights(weights, "final_norm", None, model.info.model.d_model),
            weights.of("W_U"),
            weights.of("b_U") if "b_U" in weights else None,
            plan.logit_scale or 1.0,
            plan.logit_softcap if plan.HasField("logit_softcap") else None,
        )

    def direction(self, token: int) -> Doubles:
        """The direction of a token's logit in the residual stream, before the divisor (d_model,)."""
        return self.logit_scale * self.norm.apply_transpose(self.unembedding[:, token].astype(np.float64))

    def constant(self, token: int) -> float:
        """The part of a token's logit from biases."""
        found = float(self.norm.shift @ self.unembedding[:, token].astype(np.float64))
        return self.logit_scale * (found + (0.0 if self.bias is None else float(self.bias[token])))

    def capped(self, logit: float) -> float:
        """The logit after the softcap."""
        return logit if self.softcap is None else float(self.softcap * np.tanh(logit / self.softcap))


def has(weights: Weights, name: str, layer: int | None) -> bool:
    """Whether a weight of a layer was read."""
    return (name, layer) in weights.places
