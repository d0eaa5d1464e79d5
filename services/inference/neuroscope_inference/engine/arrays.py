"""The typed facade over MLX's untyped corners: element types and the memory of evaluated arrays."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError
from neuroscope.v1 import tensor_pb2 as pb

_DTYPES: dict[mx.Dtype, pb.DataType.ValueType] = {
    mx.float32: pb.DATA_TYPE_FLOAT32,
    mx.float16: pb.DATA_TYPE_FLOAT16,
    mx.bfloat16: pb.DATA_TYPE_BFLOAT16,
    mx.float64: pb.DATA_TYPE_FLOAT64,
    mx.int8: pb.DATA_TYPE_INT8,
    mx.int16: pb.DATA_TYPE_INT16,
    mx.int32: pb.DATA_TYPE_INT32,
    mx.int64: pb.DATA_TYPE_INT64,
    mx.uint8: pb.DATA_TYPE_UINT8,
    mx.uint16: pb.DATA_TYPE_UINT16,
    mx.uint32: pb.DATA_TYPE_UINT32,
    mx.uint64: pb.DATA_TYPE_UINT64,
    mx.bool_: pb.DATA_TYPE_BOOL,
}
_FROM_WIRE = {wire: dtype for dtype, wire in _DTYPES.items()}
_CASTABLE = (pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16)


def wire_dtype(dtype: mx.Dtype) -> pb.DataType.ValueType:
    """The contract's name of an MLX element type.

    Raises:
        DataConversionError: the contract has none, as for complex64.
    """
    try:
        return _DTYPES[dtype]
    except KeyError:
        raise DataConversionError(f"MLX dtype {dtype} cannot be carried", field="dtype") from None


def cast_dtype(wire: pb.DataType.ValueType, field: str) -> mx.Dtype:
    """The MLX element type that a capture may be cast to.

    Raises:
        DataConversionError: activations are not cast to integers.
    """
    if wire not in _CASTABLE:
        name = pb.DataType.Name(wire) if wire in _FROM_WIRE else f"a type {wire} that the contract does not have"
        raise DataConversionError(
            f"activations are cast to float32, float16 or bfloat16, not to {name}",
            field=field,
            valid=("float32", "float16", "bfloat16"),
        )
    return _FROM_WIRE[wire]


def new_handle(array: mx.array) -> mx.array:
    """A new handle on the same value: models change theirs in place (`h *= scale`), which must not reach a capture."""
    return mx.array(array)


def from_numpy(array: NDArray[Any]) -> mx.array:
    """A copy of a numpy array of a type that numpy itself has."""
    return mx.array(cast(Any, array))


def buffer(array: mx.array) -> memoryview:
    """The bytes of an evaluated, contiguous array, without a copy. It keeps the array alive; any thread may read it."""
    return memoryview(cast(Any, array)).cast("B")


def scalar(array: mx.array) -> float:
    """The value of an array of one element."""
    return float(cast(float, array.item()))
