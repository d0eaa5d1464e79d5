"""Element types: one table between the contract, numpy and the names that JSON and users write."""

from __future__ import annotations

from typing import TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, nearest
from neuroscope.v1 import tensor_pb2 as pb

Array: TypeAlias = NDArray[np.generic]

_NUMPY: dict[pb.DataType.ValueType, np.dtype[np.generic]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype(np.float32),
    pb.DATA_TYPE_FLOAT16: np.dtype(np.float16),
    pb.DATA_TYPE_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
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
_NAMES = {pb.DataType.Name(dtype).removeprefix("DATA_TYPE_").lower(): dtype for dtype in _NUMPY}
_OF_NAME = {dtype: name for name, dtype in _NAMES.items()}


def numpy_dtype(dtype: pb.DataType.ValueType) -> np.dtype[np.generic]:
    """The numpy type of a wire type; bfloat16 is that of `ml_dtypes`."""
    try:
        return _NUMPY[dtype]
    except KeyError:
        raise DataConversionError(f"data type {dtype} has no numpy type", field="dtype", valid=_NAMES) from None


def dtype_name(dtype: pb.DataType.ValueType) -> str:
    """The name in JSON: float32, bfloat16, ..."""
    return _OF_NAME[dtype]


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
