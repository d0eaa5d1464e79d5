"""Element types, one table between the contract, numpy and the names that JSON and users write; and whole arrays inside
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import xxhash

from neuroscope.errors import DataConversionError, nearest
from neuroscope.v1 import tensor_pb2 as pb
from neuroscope.vocabulary import torch_arrays
from neuroscope.vocabulary.torch_arrays import Array as Array
from neuroscope.vocabulary.torch_arrays import bfloat16

_NUMPY: dict[pb.DataType.ValueType, np.dtype[np.generic]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype(np.float32),
    pb.DATA_TYPE_FLOAT16: np.dtype(np.float16),
    pb.DATA_TYPE_FLOAT64: np.dtype(np.float64),
    pb.DATA_TYPE_INT8: np.dtype(np.int8),
    pb.DATA_TYPE_INT16: np.dtype(np.int16),
    pb.DATA_TYPE_INT32: np.dtype(np.int32),
    pb.DATA_TYPE_INT64: np.dtype(np.int64),
    pb.DATA_TYPE_UINT8: np.dtype(np.uint8),
    pb.DATA_TYPE_UINT16: np.dtype(np.uint16),
    pb.DATA_TYPE_UINT32: np.dtype(np.uint32),
    pb.DATA_TYPE_UINT64: np.dtype(np.uint64),
    pb.DATA_TYPE_BOOL: np.dtype(np.bool_),
}
_NAMES = {name.removeprefix("DATA_TYPE_").lower(): dtype for name, dtype in pb.DataType.items() if dtype}
_OF_NAME = {dtype: name for name, dtype in _NAMES.items()}


def numpy_dtype(dtype: pb.DataType.ValueType) -> np.dtype[np.generic]:
    """The numpy type of a wire type; bfloat16 is that of `ml_dtypes`."""
    if dtype == pb.DATA_TYPE_BFLOAT16:
        return bfloat16()
    try:
        return _NUMPY[dtype]
    except KeyError:
        raise DataConversionError(f"data type {dtype} has no numpy type", field="dtype", valid=_NAMES) from None


def dtype_name(dtype: pb.DataType.ValueType) -> str:
    """The name in JSON: float32, bfloat16, ..."""
    return _OF_NAME[dtype]


def lowest(dtype: np.dtype[np.generic]) -> float:
    """The least number of a type of floats."""
    import ml_dtypes

    return float(cast("Any", ml_dtypes.finfo(dtype)).min)


def parse_dtype(name: str, *, field: str = "dtype") -> pb.DataType.ValueType:
    """The wire type of a name such as `float16`; empty is unspecified.

    Raises:
        DataConversionError: no type has that name.
    """
    if not name:
        return pb.DATA_TYPE_UNSPECIFIED
    try:
        return _NAMES[name.lower()]
    except KeyError:
        raise DataConversionError(
            f"unknown dtype {name!r}; did you mean {', '.join(nearest(name, _NAMES))}?", field=field, valid=_NAMES
        ) from None


def to_array(value: Any, *, field: str = "tensor") -> Array:
    """An array as requests carry it: contiguous, little-endian, float64 as float32, in which every engine computes.

    Args:
        value: a numpy array, what numpy makes one of (a list, ...), a torch tensor of any device, or a number.
        field: path of the tensor in the request, for errors.

    Raises:
        DataConversionError: it holds no numbers, none at all, or one that is NaN, infinite or too large for float32.
    """
    try:
        array = torch_arrays.to_numpy(value) if torch_arrays.is_tensor(value) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        why = "its rows have different lengths" if "inhomogeneous" in str(error) else error
        raise DataConversionError(f"no array can be made of {_shortly(value)}: {why}", field=field) from None
    if array.dtype.name not in _NAMES and array.dtype.kind not in "biuf":
        raise DataConversionError(f"{_shortly(value)} holds no numbers, but {array.dtype}", field=field)
    check_finite(array, field=field)
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float32).itemsize:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        check_finite(array, field=field, why="too large for float32")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def check_finite(array: Array, *, field: str = "tensor", why: str = "") -> None:
    """Refuses an empty array and one that holds NaN or infinity.

    Raises:
        DataConversionError: names the first such element.
    """
    if array.size == 0:
        raise DataConversionError(f"the {describe(array.shape)} is empty", field=field)
    if array.dtype.kind in "biu":
        return
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size and array.ndim == 0:
        raise DataConversionError(f"the number is {why or array[()]}", field=field)
    if bad.size:
        index = [int(axis) for axis in cast("tuple[np.intp, ...]", np.unravel_index(bad[0], array.shape))]
        what = why or f"{float(array.reshape(-1)[bad[0]]):g}"
        raise DataConversionError(f"the {describe(array.shape)} holds a value at {index} that is {what}", field=field)


def to_message(array: Array) -> pb.Tensor:
    """An array of `to_array` inside a request."""
    data = array.tobytes()
    return pb.Tensor(
        dtype=parse_dtype(array.dtype.name), shape=array.shape, xxh3_64=xxhash.xxh3_64_intdigest(data), data=data
    )


def from_message(tensor: pb.Tensor, *, field: str = "tensor") -> Array:
    """The array of a tensor inside a request, a read-only view of its bytes.

    Raises:
        DataConversionError: the bytes do not fill the shape, or the type is not stated.
    """
    try:
        return np.frombuffer(tensor.data, numpy_dtype(tensor.dtype)).reshape(tuple(tensor.shape))
    except (ValueError, DataConversionError) as error:
        raise DataConversionError(f"the {describe(tensor.shape)} is malformed: {error}", field=field) from None


def describe(shape: Sequence[int]) -> str:
    """`tensor(1×5×128)`."""
    return f"tensor({'×'.join(map(str, shape))})"


def _shortly(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
