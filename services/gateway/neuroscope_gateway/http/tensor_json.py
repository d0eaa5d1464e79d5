"""Activations as JSON: nested lists of numbers, base64 of their bytes, or what they are and where the bytes can be had.

In lists bfloat16 and float16 are widened to float32, which changes no value; `dtype` keeps the true name. A float32 is
written with the fewest digits that give the same float32 again. NaN and infinity have no JSON, so a list with one is
refused rather than altered; base64 carries them.
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
"""Bytes of a tensor that are written in one go, some 10 ms; other requests run in between."""
_BASE64_BYTES = 3 * 1024 * 1024  # a multiple of 3, so that the parts join
_NATIVE_KINDS = frozenset("fiub")


async def activation_json(
    pieces: Sequence[TensorPiece], named: TensorLabel, *, form: ActivationFormat, choice: int | None, url: str
) -> list[orjson.Fragment]:
    """What the answer says of one tensor of one step: an object for each piece of it, as metadata one for all.

    Args:
        pieces: of one step and row, in the order of their positions.
        named: how the request called the tensor.
        form: how its values are written.
        choice: the answer that it belongs to; None where there is one only.
        url: where its bytes can be had, as metadata.

    Raises:
        DataConversionError: a list would hold NaN or infinity.
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
    """The JSON of an array of finite numbers: nested lists, or as base64 a text; other requests run in between."""
    if form == "base64":
        return b'"' + b"".join([part async for part in _base64(array)]) + b'"'
    parts: list[bytes] = []
    for part in _json_parts(_to_native(array)):
        parts.append(part)
        if len(part) > LEAF_BYTES:
            await asyncio.sleep(0)
    return b"".join(parts)


def _metadata(pieces: Sequence[TensorPiece], named: TensorLabel) -> dict[str, Any]:
    """The keys of the format that say what a tensor is; its shape is that of the joined pieces."""
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
    """The base64 of an array's bytes, little-endian and row-major, in parts that other requests run in between."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, data.nbytes, _BASE64_BYTES):
        if start:
            await asyncio.sleep(0)
        yield b64encode(data[start : start + _BASE64_BYTES])


def _to_native(array: Array) -> Array:
    """The array in a type that orjson writes, C-contiguous."""
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
