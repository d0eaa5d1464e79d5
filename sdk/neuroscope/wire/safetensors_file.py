"""Reads safetensors files, bfloat16 included, which the numpy module of safetensors lacks."""

from __future__ import annotations

import json
import math
import mmap
from typing import Any, cast

import numpy as np

from neuroscope.vocabulary.tensors import Array, numpy_dtype, parse_dtype

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read(data: bytes | mmap.mmap) -> tuple[dict[str, Array], dict[str, str]]:
    """Returns the tensors of a file, as views of its bytes, and its metadata.

    Raises:
        ValueError, KeyError, TypeError, IndexError: the file is malformed.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = cast("dict[str, Any]", json.loads(data[8:start]))
    metadata: dict[str, str] = header.pop("__metadata__", {})
    return {name: _array(data, start, entry) for name, entry in header.items()}, metadata


def _array(data: bytes | mmap.mmap, start: int, entry: dict[str, Any]) -> Array:
    dtype = numpy_dtype(parse_dtype(_TYPES[entry["dtype"]]))
    shape: list[int] = entry["shape"]
    return np.frombuffer(data, dtype, math.prod(shape), start + entry["data_offsets"][0]).reshape(shape)
