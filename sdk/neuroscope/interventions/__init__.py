"""Edits of activations while the model runs: what they are, what they may compute, and as JSON."""

from neuroscope.interventions.expressions import captured, noise, tensor
from neuroscope.interventions.intervention import (
    Intervention,
    InterventionLike,
    add,
    describe,
    edit,
    replace,
    scale,
    to_messages,
    zero,
)

__all__ = [
    "Intervention",
    "InterventionLike",
    "add",
    "captured",
    "describe",
    "edit",
    "noise",
    "replace",
    "scale",
    "tensor",
    "to_messages",
    "zero",
]
