"""Compares the models of two circuits by shape and, if known, by weights."""

from __future__ import annotations

from neuroscope.v1 import circuit_pb2 as pb

_SHAPE = {
    "layer_count": "layers",
    "head_count": "heads",
    "key_value_head_count": "key/value heads",
    "d_model": "entries of the residual stream",
}


def shape_difference(found_on: pb.CircuitModel, model: pb.CircuitModel) -> str:
    """How the shapes of two models differ; empty if they agree or are unknown."""
    pairs = {noun: (int(getattr(found_on, name)), int(getattr(model, name))) for name, noun in _SHAPE.items()}
    return ", ".join(
        f"{ours} {noun}, not {theirs}" for noun, (ours, theirs) in pairs.items() if ours and theirs != ours and theirs
    )


def weights_difference(found_on: pb.CircuitModel, model: pb.CircuitModel) -> str:
    """How the weights of two models differ; empty if they agree or are unknown."""
    ours, theirs = found_on.weights_hash, model.weights_hash
    if not ours or not theirs or ours == theirs:
        return ""
    return f"{found_on.model_id} with weights {ours[:8]}, and not {model.model_id} with weights {theirs[:8]}"
