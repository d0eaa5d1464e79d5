"""Which weights a request asks for, of which layers, heads and experts; what is not there is refused by its field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.weights.names import GROUPS, OF_KEY_VALUE_HEADS, WEIGHTS, resolve, resolved
from neuroscope_inference.engine.qkv_layout import QkvLayout
from neuroscope_inference.engine.weights.catalogue import Weight, WeightCatalogue

_HEAD, _EXPERT = tensor_pb2.AXIS_HEAD, tensor_pb2.AXIS_EXPERT
_UNCHOSEN_EXPERTS = ("W_router", "b_router", "shared.W_router")
"""Weights whose expert axis is always whole: a router's scores are of all experts."""


@dataclass(frozen=True, slots=True)
class SelectedWeight:
    """A weight that is sent.

    Args:
        weight: where it is from.
        heads: indices along its head axis; empty: all, or it has none.
        experts: likewise along its expert axis.
    """

    weight: Weight
    heads: Sequence[int] = ()
    experts: Sequence[int] = ()

    def make(self) -> mx.array:
        """The lazy array."""
        found = self.weight.make()
        for axis, places in ((_HEAD, self.heads), (_EXPERT, self.experts)):
            if places:
                found = mx.take(found, mx.array(list(places)), axis=list(self.weight.axes).index(axis))
        return found

    def indices(self, axis: tensor_pb2.Axis.ValueType, extent: int) -> Sequence[int]:
        """What the entries of the head or expert axis stand for; none where it has no such axis."""
        places = self.heads if axis == _HEAD else self.experts
        return (places or range(extent)) if axis in self.weight.axes else ()


def check_names(request: pb.ReadWeightsRequest) -> None:
    """Refuses a name that means nothing, before anything is asked of the model.

    Raises:
        InvalidRequestError: names what is nearest.
    """
    resolved(request.names, field="names")


def select_weights(request: pb.ReadWeightsRequest, catalogue: WeightCatalogue) -> list[SelectedWeight]:
    """What is sent, in the order of the layers and of the vocabulary.

    Raises:
        InvalidRequestError: a layer, head or expert is out of range, or none of the weights has heads or experts.
        UnavailableSiteError: the model lacks a weight that is named, in a layer that is named or in all; says why, and
            what it has.
    """
    layout = catalogue.layout
    layers = _check_range(request.layers, layout.num_layers, "layers", "layer")
    names = resolved(request.names, field="names") or list(WEIGHTS)
    found = [
        weight
        for layer in (None, *range(layout.num_layers))
        for name in names
        if (weight := catalogue.weights.get((name, layer))) is not None
        and (not layers or layer is None or layer in layers)
    ]
    _check_available(request, catalogue, layers, {(weight.name, weight.layer) for weight in found})
    if layers:  # what belongs to no layer is not one of these layers', but where it is named
        named = set(resolved(request.names, field="names"))
        found = [weight for weight in found if weight.layer is not None or weight.name in named]
    _check_axis(request.heads, found, _HEAD, "heads")
    _check_axis(request.experts, [each for each in found if each.name not in _UNCHOSEN_EXPERTS], _EXPERT, "experts")
    return [_select_axes(request, weight, layout.columns[weight.layer or 0]) for weight in _ordered(found)]


def _ordered(weights: Sequence[Weight]) -> Iterator[Weight]:
    """Embeddings, the layers, the end."""
    behind = ("final_norm.w", "final_norm.b", "W_U", "b_U")
    yield from (weight for weight in weights if weight.name not in behind)
    yield from (weight for weight in weights if weight.name in behind)


def _select_axes(request: pb.ReadWeightsRequest, weight: Weight, columns: QkvLayout) -> SelectedWeight:
    heads: list[int] = []
    experts: list[int] = []
    if request.heads and _HEAD in weight.axes:
        of_queries = _check_range(request.heads, columns.heads, "heads", "head")
        group = columns.heads // columns.kv_heads
        is_shared = weight.name in OF_KEY_VALUE_HEADS
        heads = list(dict.fromkeys(head // group for head in of_queries)) if is_shared else of_queries
    if request.experts and _EXPERT in weight.axes and weight.name not in _UNCHOSEN_EXPERTS:
        count = weight.make().shape[list(weight.axes).index(_EXPERT)]
        experts = _check_range(request.experts, count, "experts", "expert")
    return SelectedWeight(weight, heads, experts)


def _check_available(
    request: pb.ReadWeightsRequest,
    catalogue: WeightCatalogue,
    layers: Sequence[int],
    found: set[tuple[str, int | None]],
) -> None:
    for index, name in enumerate(request.names):
        members = resolve(name, field=f"names[{index}]")
        if name in GROUPS:
            if not any(member == there for member in members for there, _ in found):
                raise _unavailable(name, catalogue.reason(members[0]), catalogue, f"names[{index}]")
            continue
        lacking = [layer for layer in layers if WEIGHTS[name].has_layer and (name, layer) not in found]
        if lacking:
            reason = catalogue.reasons.get((name, lacking[0])) or catalogue.reason(name)
            raise _unavailable(f"{name} in layer {lacking[0]}", reason, catalogue, f"names[{index}]")
        if not any(name == there for there, _ in found):
            raise _unavailable(name, catalogue.reason(name), catalogue, f"names[{index}]")


def _unavailable(what: str, reason: str, catalogue: WeightCatalogue, field: str) -> UnavailableSiteError:
    valid = [name for name in WEIGHTS if name in catalogue]
    return UnavailableSiteError(
        f"this model has no {what}: {reason}; it has {', '.join(valid)}", field=field, valid=valid
    )


def _check_axis(asked: Sequence[int], weights: Sequence[Weight], axis: tensor_pb2.Axis.ValueType, field: str) -> None:
    if asked and not any(axis in weight.axes for weight in weights):
        raise InvalidRequestError(f"none of these weights has {field}", field=field)


def _check_range(asked: Sequence[int], count: int, field: str, what: str) -> list[int]:
    for index, number in enumerate(asked):
        if not -count <= number < count:
            raise InvalidRequestError(
                f"{what} {number} is out of range: the model has {field} 0 to {count - 1}", field=f"{field}[{index}]"
            )
    return list(dict.fromkeys(number % count for number in asked))
