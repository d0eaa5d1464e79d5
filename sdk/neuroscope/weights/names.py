"""The vocabulary of weights: names, meanings and axes, following TransformerLens.

    x @ W + b       activations are multiplied from the left, so a matrix is (..., inputs, outputs)

The inference service knows which of these weights a model has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import tensor_pb2

_A = tensor_pb2.Axis
_MODEL, _HEAD, _WIDTH, _MLP = _A.AXIS_D_MODEL, _A.AXIS_HEAD, _A.AXIS_D_HEAD, _A.AXIS_D_MLP
_WORDS, _EXPERT, _POSITION = _A.AXIS_VOCABULARY, _A.AXIS_EXPERT, _A.AXIS_POSITION


@dataclass(frozen=True, slots=True)
class WeightName:
    """An entry of the vocabulary."""

    name: str
    meaning: str
    axes: tuple[tensor_pb2.Axis.ValueType, ...]
    groups: tuple[str, ...]
    has_layer: bool = True


def _norm(name: str, meaning: str, *groups: str, has_layer: bool = True) -> tuple[WeightName, WeightName]:
    return (
        WeightName(f"{name}.w", f"what the norm {meaning} multiplies with", (_MODEL,), ("norms", *groups), has_layer),
        WeightName(f"{name}.b", f"what the norm {meaning} adds", (_MODEL,), ("norms", *groups), has_layer),
    )


WEIGHTS: dict[str, WeightName] = {
    weight.name: weight
    for weight in (
        WeightName("W_E", "token embedding", (_WORDS, _MODEL), ("embedding",), has_layer=False),
        WeightName("W_pos", "learnt embedding of positions", (_POSITION, _MODEL), ("embedding",), has_layer=False),
        *_norm("ln1", "before attention"),
        *_norm("ln1_post", "behind attention"),
        WeightName("W_Q", "queries", (_HEAD, _MODEL, _WIDTH), ("attention", "qk")),
        WeightName("b_Q", "bias of queries", (_HEAD, _WIDTH), ("attention", "qk")),
        WeightName("W_K", "keys, of key/value heads", (_HEAD, _MODEL, _WIDTH), ("attention", "qk")),
        WeightName("b_K", "bias of keys, of key/value heads", (_HEAD, _WIDTH), ("attention", "qk")),
        WeightName("W_V", "values, of key/value heads", (_HEAD, _MODEL, _WIDTH), ("attention", "ov")),
        WeightName("b_V", "bias of values, of key/value heads", (_HEAD, _WIDTH), ("attention", "ov")),
        WeightName("W_O", "what heads write", (_HEAD, _WIDTH, _MODEL), ("attention", "ov")),
        WeightName("b_O", "bias of attention's output", (_MODEL,), ("attention", "ov")),
        WeightName("q_norm.w", "what the norm of queries multiplies with", (_HEAD, _WIDTH), ("norms", "qk")),
        WeightName("k_norm.w", "what the norm of keys multiplies with", (_HEAD, _WIDTH), ("norms", "qk")),
        WeightName("sinks", "scores of a key that every query may attend to and that has no value", (_HEAD,), ("qk",)),
        *_norm("ln2", "before the MLP"),
        *_norm("ln2_post", "behind the MLP"),
        WeightName("W_gate", "what the activation gates", (_MODEL, _MLP), ("mlp",)),
        WeightName("b_gate", "bias of what the activation gates", (_MLP,), ("mlp",)),
        WeightName("W_in", "what neurons read", (_MODEL, _MLP), ("mlp",)),
        WeightName("b_in", "bias of neurons", (_MLP,), ("mlp",)),
        WeightName("W_out", "what neurons write", (_MLP, _MODEL), ("mlp",)),
        WeightName("b_out", "bias of the MLP's output", (_MODEL,), ("mlp",)),
        WeightName("W_router", "scores of the experts", (_MODEL, _EXPERT), ("experts",)),
        WeightName("b_router", "bias of the experts' scores", (_EXPERT,), ("experts",)),
        WeightName("experts.W_gate", "W_gate of each expert", (_EXPERT, _MODEL, _MLP), ("experts",)),
        WeightName("experts.b_gate", "b_gate of each expert", (_EXPERT, _MLP), ("experts",)),
        WeightName("experts.W_in", "W_in of each expert", (_EXPERT, _MODEL, _MLP), ("experts",)),
        WeightName("experts.b_in", "b_in of each expert", (_EXPERT, _MLP), ("experts",)),
        WeightName("experts.W_out", "W_out of each expert", (_EXPERT, _MLP, _MODEL), ("experts",)),
        WeightName("experts.b_out", "b_out of each expert", (_EXPERT, _MODEL), ("experts",)),
        WeightName("shared.W_gate", "W_gate of the expert of every token", (_MODEL, _MLP), ("experts",)),
        WeightName("shared.W_in", "W_in of the expert of every token", (_MODEL, _MLP), ("experts",)),
        WeightName("shared.W_out", "W_out of the expert of every token", (_MLP, _MODEL), ("experts",)),
        WeightName("shared.W_router", "score of the expert of every token", (_MODEL, _EXPERT), ("experts",)),
        *_norm("final_norm", "before the unembedding", "unembedding", has_layer=False),
        WeightName("W_U", "unembedding", (_MODEL, _WORDS), ("unembedding",), has_layer=False),
        WeightName("b_U", "bias of the unembedding", (_WORDS,), ("unembedding",), has_layer=False),
    )
}
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name, weight in WEIGHTS.items() if group in weight.groups)
    for group in ("embedding", "unembedding", "norms", "attention", "qk", "ov", "mlp", "experts")
}
"""Groups of weights by name."""
OF_KEY_VALUE_HEADS = ("W_K", "b_K", "W_V", "b_V", "k_norm.w")
"""Weights whose head axis counts key/value heads."""
OPTIONAL = (*(name for name in WEIGHTS if re.search(r"(^|\.)b(_|$)", name)), "sinks")
"""Weights that models often lack although they have the matrix."""


def resolve(name: str, *, field: str) -> tuple[str, ...]:
    """The weights of a name or group.

    Raises:
        InvalidRequestError: the name is unknown; the message has the nearest names.
    """
    if name in WEIGHTS:
        return (name,)
    if name in GROUPS:
        return GROUPS[name]
    valid = (*WEIGHTS, *GROUPS)
    near = ", ".join(nearest(name, valid))
    raise InvalidRequestError(f"no weight is called {name!r}; did you mean {near}?", field=field, valid=valid)


def resolved(names: Iterable[str], *, field: str) -> list[str]:
    """The weights of several names and groups, without duplicates, in the order of the vocabulary."""
    found = {weight for index, name in enumerate(names) for weight in resolve(name, field=f"{field}[{index}]")}
    return [name for name in WEIGHTS if name in found]
