"""Keys of weights (name and layer), and how they are written."""

from __future__ import annotations

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import dtype_name

WeightKey = tuple[str, int | None]
"""Name and layer of a weight; None for weights without a layer."""


def axis_name(axis: tensor_pb2.Axis.ValueType) -> str:
    """The name of an axis, such as d_model."""
    return tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower()


def key_of(spec: tensor_pb2.TensorSpec) -> WeightKey:
    """The key of a plan's entry."""
    return spec.hook_id, spec.site.layer if spec.site.HasField("layer") else None


def file_name(place: WeightKey) -> str:
    """The name of a weight in files, such as W_Q.5."""
    name, layer = place
    return name if layer is None else f"{name}.{layer}"


def describe(spec: tensor_pb2.TensorSpec) -> tuple[str, str]:
    """Shape and element type as text: `head 8 x d_model 128 x d_head 16`, `float32`."""
    shape = " x ".join(f"{axis_name(axis)} {extent}" for axis, extent in zip(spec.axes, spec.shape, strict=True))
    return shape, dtype_name(spec.dtype)
