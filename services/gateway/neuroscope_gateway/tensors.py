"""Activations as JSON: nested lists of numbers, written by orjson straight from the received bytes.

bfloat16 and float16 are widened to float32, which changes no value; `dtype` keeps the true name. A float32 is written
with the fewest digits that give the same float32 again. NaN and infinity have no JSON, so a tensor that holds one is
refused rather than altered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import orjson

from neuroscope.errors import DataConversionError
from neuroscope.frames import TensorPiece
from neuroscope.tensors import Array, dtype_name
from neuroscope_gateway.requested import Named

LEAF_BYTES = 256 * 1024
"""Bytes of a tensor that are written in one go, some 10 ms; other requests run in between."""
_NATIVE = frozenset("fiub")


async def activation(piece: TensorPiece, named: Named) -> orjson.Fragment:
    """The seven keys of one captured tensor, or of one piece of it.

    Raises:
        DataConversionError: the tensor holds NaN or infinity.
    """
    array = _widened(piece.array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        side = "input" if named.is_input else "output"
        raise DataConversionError(
            f"hook {piece.spec.hook_id!r}: the {side} of {named.component} at {named.layer_name or 'the model'} holds"
            f" NaN or infinity in step {piece.step}, which JSON cannot carry; capture it over gRPC",
            field=named.param,
        )
    parts: list[bytes] = []
    for part in _parts(array):
        parts.append(part)
        if len(part) > LEAF_BYTES:
            await asyncio.sleep(0)
    return orjson.Fragment(
        orjson.dumps(
            {
                "hook_id": piece.spec.hook_id,
                "layer_name": named.layer_name,
                "component": named.component,
                "shape": list(array.shape),
                "dtype": dtype_name(piece.spec.dtype),
                "is_input": named.is_input,
                "data": orjson.Fragment(b"".join(parts)),
            }
        )
    )


def _widened(array: Array) -> Array:
    """The array in a type that orjson writes, C-contiguous."""
    narrow = array.dtype.kind not in _NATIVE or array.dtype == np.float16
    return np.ascontiguousarray(array, np.float32 if narrow else None).reshape(array.shape)


def _parts(array: Array) -> Iterator[bytes]:
    """The JSON of an array in parts of at most LEAF_BYTES of numbers."""
    if array.ndim == 0:
        yield orjson.dumps(array.item())
    elif array.nbytes <= LEAF_BYTES:
        yield orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        yield from _split(array)


def _split(array: Array) -> Iterator[bytes]:
    row_bytes = array.nbytes // len(array)
    step = max(1, LEAF_BYTES // row_bytes)
    yield b"["
    for start in range(0, len(array), step):
        if start:
            yield b","
        if row_bytes > LEAF_BYTES:
            yield from _parts(array[start])
        else:
            yield orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"
