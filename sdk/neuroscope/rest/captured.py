"""A captured tensor of the NeuroScope REST format."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from neuroscope.errors import DataConversionError
from neuroscope.rest.hook_spec import point_of
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import sites, torch_arrays
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array, lowest, numpy_dtype, parse_dtype


@dataclass(slots=True)
class CapturedActivation:
    """One tensor of one step, or one piece of it where a prefill ran in chunks.

    `data` may be given as numpy array, torch tensor, nested list, or base64 of little-endian bytes; it is a numpy array
    afterwards, of the type that `dtype` names (that of `ml_dtypes` for bfloat16) and of the shape that `shape` says.

    Raises:
        DataConversionError: data, shape and dtype contradict each other.
    """

    hook_id: str
    """The hook that asked for it."""
    layer_name: str
    """The layer as the hook spelt it, or the model's own path."""
    component: str
    """The component as the hook spelt it."""
    shape: list[int]
    """Extents, the batch first."""
    dtype: str
    """float32, float16, bfloat16, int32, ..."""
    is_input: bool
    """Whether it is what the component reads."""
    data: Array = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else is known: the model, the generation, in a stream the step."""

    def __post_init__(self) -> None:
        self.shape = [int(extent) for extent in self.shape]
        self.data = _array(self.data, self.shape, self.dtype, self.hook_id)

    @property
    def point(self) -> Point:
        """The point of the vocabulary.

        Raises:
            UnknownSiteError: the component is none of it.
        """
        return point_of(self.component, self.layer_name, self.is_input)

    def to_torch(self) -> Any:
        """The data as a torch tensor.

        Raises:
            DataConversionError: torch is not installed.
        """
        return torch_arrays.to_torch(self.data)

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> CapturedActivation:
        """The activation of a REST object, whose `data` is a nested list or base64.

        Raises:
            DataConversionError: a key is missing, or the data do not fit.
        """
        try:
            return cls(
                hook_id=data["hook_id"],
                layer_name=data["layer_name"],
                component=data["component"],
                shape=data["shape"],
                dtype=data["dtype"],
                is_input=data["is_input"],
                data=data["data"],
                metadata={**data.get("metadata", {}), **(metadata or {})},
            )
        except KeyError as error:
            raise DataConversionError(f"the activation has no {error.args[0]}", field=str(error.args[0])) from None


def join(pieces: Sequence[CapturedActivation]) -> CapturedActivation:
    """Pieces of one point, in their order, as one activation along the position axis.

    In attention the key axis is as long as the longest piece's; what an earlier query had no key for is 0 in patterns
    and the type's least number in scores.

    Raises:
        DataConversionError: there is none, or they are of several points.
    """
    if not pieces:
        raise DataConversionError("there is nothing to join", field="pieces")
    first, point = pieces[0], pieces[0].point
    if any(piece.point != point or piece.dtype != first.dtype for piece in pieces):
        found = sorted({f"{piece.point} ({piece.dtype})" for piece in pieces})
        raise DataConversionError(f"pieces of several points make no array: {', '.join(found)}", field="pieces")
    if len(pieces) == 1:
        return first
    axes = sites.COMPONENTS[point.component].axes
    position = axes.index(tensor_pb2.AXIS_POSITION)
    arrays = [piece.data for piece in pieces]
    if tensor_pb2.AXIS_KEY_POSITION in axes:
        arrays = _widened(arrays, axes.index(tensor_pb2.AXIS_KEY_POSITION), point.component)
    array = np.concatenate(arrays, axis=position)
    return replace(first, data=array, shape=list(array.shape))


def _widened(arrays: Sequence[Array], axis: int, component: str) -> list[Array]:
    width = max(array.shape[axis] for array in arrays)
    least = component == "attention_scores"
    return [
        np.pad(
            array,
            [(0, width - array.shape[axis] if index == axis else 0) for index in range(array.ndim)],
            constant_values=lowest(array.dtype) if least else 0,
        )
        for array in arrays
    ]


def _array(data: Any, shape: Sequence[int], dtype: str, hook_id: str) -> Array:
    kind = numpy_dtype(parse_dtype(dtype, field="dtype"))
    try:
        data = torch_arrays.to_numpy(data) if torch_arrays.is_tensor(data) else data
        if isinstance(data, str):
            array = np.frombuffer(base64.b64decode(data, validate=True), kind.newbyteorder("<")).reshape(tuple(shape))
        elif isinstance(data, np.ndarray):
            array = cast("Array", data)
        else:
            array = np.asarray(data, kind)
            array = array.reshape(tuple(shape)) if array.size == 0 else array
    except (ValueError, TypeError, OverflowError, RuntimeError, binascii.Error) as error:
        raise DataConversionError(
            f"the data of {hook_id!r} are no {dtype} of {list(shape)}: {error}", field="data"
        ) from None
    if array.dtype != kind or list(array.shape) != list(shape):
        raise DataConversionError(
            f"the data of {hook_id!r} are {array.dtype.name} of {list(array.shape)}, not {dtype} of {list(shape)}",
            field="data",
        )
    return array
