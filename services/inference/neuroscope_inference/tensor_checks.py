"""Validates tensors of requests: a known dtype, data that fills the shape, finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array, numpy_dtype

MAX_AXES = 16
_MAX_BYTES = 2**62  # so that later products fit into 64 bits


def tensor_nbytes(dtype: tensor_pb2.DataType.ValueType, shape: Sequence[int], field: str) -> int:
    """The size in bytes of a tensor with that dtype and shape.

    Raises:
        InvalidRequestError: an extent is below 1, or there are too many axes.
        DataConversionError: the dtype is missing or unknown.
    """
    if dtype == tensor_pb2.DATA_TYPE_UNSPECIFIED:
        raise DataConversionError("the tensor's type is missing", field=f"{field}.dtype")
    if len(shape) > MAX_AXES:
        raise InvalidRequestError(f"a tensor has at most {MAX_AXES} axes, not {len(shape)}", field=f"{field}.shape")
    for axis, extent in enumerate(shape):
        if extent < 1:
            raise InvalidRequestError(f"axis {axis} has the extent {extent}", field=f"{field}.shape")
    nbytes = math.prod(shape) * numpy_dtype(dtype).itemsize
    if nbytes > _MAX_BYTES:
        raise InvalidRequestError(f"no memory holds a tensor of shape {list(shape)}", field=f"{field}.shape")
    return nbytes


def to_array(
    dtype: tensor_pb2.DataType.ValueType, shape: Sequence[int], data: bytes | bytearray | memoryview, field: str
) -> Array:
    """A read-only numpy view of the bytes.

    Raises:
        InvalidRequestError, DataConversionError: as `tensor_nbytes`; or the bytes do not fill the shape, a number is
            not finite, a bool is neither 0 nor 1.
    """
    nbytes = tensor_nbytes(dtype, shape, field)
    if len(data) != nbytes:
        raise InvalidRequestError(
            f"{numpy_dtype(dtype).name} of shape {list(shape)} has {nbytes} bytes, not {len(data)}",
            field=f"{field}.data",
        )
    array = np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)
    array.flags.writeable = False
    _check_values(array, f"{field}.data")
    return array


def to_float32(array: Array, what: str, field: str) -> NDArray[np.float32]:
    """Converts a floating-point array to float32.

    Args:
        array: the array.
        what: its name in error messages.
        field: its path in the request.

    Raises:
        DataConversionError: the dtype is not floating-point, or a number overflows float32.
    """
    if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
        raise DataConversionError(f"{what}: floating-point numbers are wanted, not {array.dtype.name}", field=field)
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataConversionError(f"{what}: there are numbers that float32 does not hold", field=field)
    return single


def _check_values(array: Array, field: str) -> None:
    values = array.reshape(-1)
    if array.dtype == np.bool_:
        bad, what = np.flatnonzero(values.view(np.uint8) > 1), "neither 0 nor 1"
    elif array.dtype.kind in "iu":
        return
    else:
        bad, what = np.flatnonzero(~np.isfinite(values)), "not finite"
    if bad.size:
        first = [int(index) for index in np.unravel_index(bad[0], array.shape)]
        raise DataConversionError(
            f"the value at {first} is {what}, as are {bad.size} of the tensor's {array.size} in all", field=field
        )
