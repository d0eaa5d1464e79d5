"""Tensors as JSON: nested lists, base64, or metadata with a URL of the bytes.

Lists convert bfloat16 and float16 to float32, which changes no value; `dtype` has the original type. A float32 is
written with the fewest digits that round-trip. JSON cannot represent NaN and infinity, so lists with them are rejected;
base64 has them.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from neuroscope.errors import DataConversionError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.reductions import NAMES
from neuroscope.vocabulary.tensors import Array, dtype_name
from neuroscope.wire.frames import TensorPiece
from neuroscope_gateway.generation.request_hooks import TensorLabel
from neuroscope_gateway.schemas.chat import ActivationFormat

LEAF_BYTES = 256 * 1024
"""Bytes that are encoded without yielding to other requests, about 10 ms."""
_BASE64_BYTES = 3 * 1024 * 1024  # a multiple of 3, so that parts concatenate
_NATIVE_KINDS = frozenset("fiub")


async def activation_json(
    pieces: Sequence[TensorPiece], named: TensorLabel, *, form: ActivationFormat, choice: int | None, url: str
) -> list[orjson.Fragment]:
    """The JSON objects of one tensor of one step: one for each piece, or a single one with `metadata`.

    Args:
        pieces: pieces of one step and row, in the order of their positions.
        named: its names in the response.
        form: encoding of the values.
        choice: index of the choice; None if there is one choice.
        url: URL of the bytes, with `metadata`.

    Raises:
        DataConversionError: a list contains NaN or infinity.
    """
    which: dict[str, Any] = {} if choice is None else {"choice": choice}
    if form == "metadata":
        return [orjson.Fragment(orjson.dumps(_metadata(pieces, named) | {"data": None, "url": url} | which))]
    return [await _piece_json(piece, named, form, which) for piece in pieces]


async def _piece_json(
    piece: TensorPiece, named: TensorLabel, form: ActivationFormat, which: dict[str, Any]
) -> orjson.Fragment:
    described = _metadata([piece], named) | which
    array = piece.array if form == "base64" else _to_native(piece.array)
    if form != "base64" and array.dtype.kind == "f" and not np.isfinite(array).all():
        side = "input" if named.is_input else "output"
        raise DataConversionError(
            f"hook {piece.spec.hook_id!r}: the {side} of {named.component} at {named.layer_name or 'the model'} holds"
            f" NaN or infinity in step {piece.step}, which a list in JSON cannot carry; set"
            " activation_format to base64",
            field=named.param,
        )
    return orjson.Fragment(orjson.dumps(described | {"data": orjson.Fragment(await array_json(array, form))}))


async def array_json(array: Array, form: str) -> bytes:
    """The JSON of an array of finite numbers: nested lists or base64. Yields to other requests."""
    if form == "base64":
        return b'"' + b"".join([part async for part in _base64(array)]) + b'"'
    parts: list[bytes] = []
    for part in _json_parts(_to_native(array)):
        parts.append(part)
        if len(part) > LEAF_BYTES:
            await asyncio.sleep(0)
    return b"".join(parts)


def _metadata(pieces: Sequence[TensorPiece], named: TensorLabel) -> dict[str, Any]:
    """The metadata of a tensor, with the shape of the concatenated pieces."""
    spec = pieces[0].spec
    shape = list(pieces[0].array.shape)
    if len(pieces) > 1:
        extents = zip(spec.axes, zip(*(piece.array.shape for piece in pieces), strict=True), strict=True)
        shape = [sum(of) if axis == tensor_pb2.AXIS_POSITION else max(of) for axis, of in extents]
    return {
        "hook_id": spec.hook_id,
        "layer_name": named.layer_name,
        "component": named.component,
        "shape": shape,
        "dtype": dtype_name(spec.dtype),
        "is_input": named.is_input,
    } | ({"reduced": NAMES[spec.reduced]} if spec.reduced else {})


async def _base64(array: Array) -> AsyncGenerator[bytes, None]:
    """The base64 of an array's bytes, little-endian and row-major, in parts. Yields to other requests."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, data.nbytes, _BASE64_BYTES):
        if start:
            await asyncio.sleep(0)
        yield b64encode(data[start : start + _BASE64_BYTES])


def _to_native(array: Array) -> Array:
    """The array as a C-contiguous type that orjson supports."""
    narrow = array.dtype.kind not in _NATIVE_KINDS or array.dtype == np.float16
    return np.ascontiguousarray(array, np.float32 if narrow else None).reshape(array.shape)


def _json_parts(array: Array) -> Iterator[bytes]:
    """The JSON of an array in parts of at most LEAF_BYTES of numbers."""
    if array.ndim == 0:
        yield orjson.dumps(array.item())
    elif array.nbytes <= LEAF_BYTES:
        yield orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        yield from _split_json(array)


def _split_json(array: Array) -> Iterator[bytes]:
    row_bytes = array.nbytes // len(array)
    step = max(1, LEAF_BYTES // row_bytes)
    yield b"["
    for start in range(0, len(array), step):
        if start:
            yield b","
        if row_bytes > LEAF_BYTES:
            yield from _json_parts(array[start])
        else:
            yield orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"
