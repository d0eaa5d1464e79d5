"""A norm with a frozen divisor, which makes it linear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.weights import Weights

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrozenNorm:
    """(x - mean) / divisor * gain + shift; the mean is subtracted by LayerNorm only.

    Args:
        gain: (d_model,).
        shift: (d_model,).
        is_centred: a LayerNorm; false for RMSNorm.
        epsilon: added to the mean square.
    """

    gain: Doubles
    shift: Doubles
    is_centred: bool
    epsilon: float

    @classmethod
    def from_weights(cls, weights: Weights, name: str, layer: int | None, width: int) -> FrozenNorm:
        """A norm of a model.

        Args:
            weights: with `name.w` and `name.b`, if the model has them.
            name: such as final_norm.
            layer: None for the final norm.
            width: d_model.
        """
        places = weights.places
        gain = weights.of(f"{name}.w", layer) if (f"{name}.w", layer) in places else np.ones(width)
        shift = weights.of(f"{name}.b", layer) if (f"{name}.b", layer) in places else np.zeros(width)
        found = [
            norm
            for norm in weights.plan.norms
            if norm.name == name and (norm.layer if norm.HasField("layer") else None) == layer
        ]
        is_centred, epsilon = (found[0].is_centred, found[0].epsilon) if found else (False, 0.0)
        return cls(gain.astype(np.float64), shift.astype(np.float64), is_centred, epsilon)

    def divisor(self, x: NDArray[np.floating]) -> Doubles:
        """The divisor of vectors (..., d_model): (...)."""
        read = x.astype(np.float64)
        if self.is_centred:
            read = read - read.mean(axis=-1, keepdims=True)
        return np.sqrt(np.square(read).mean(axis=-1) + self.epsilon)

    def apply_transpose(self, read: Doubles) -> Doubles:
        """Maps a direction (..., d_model) after the norm to the direction before it, without the divisor."""
        found = read * self.gain
        return found - found.mean(axis=-1, keepdims=True) if self.is_centred else found

    def apply(self, written: NDArray[np.floating]) -> Doubles:
        """Applies the norm to vectors (..., d_model), without divisor and shift."""
        found = written.astype(np.float64)
        if self.is_centred:
            found = found - found.mean(axis=-1, keepdims=True)
        return found * self.gain
