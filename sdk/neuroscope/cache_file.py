"""Caches in safetensors files, which any tool of the field opens.

Tensors are named `component.layer`, with `.row` behind it where rows have different lengths, and carry the axes of the
cache; bfloat16 stays bfloat16. The file's metadata has one entry, `neuroscope`, a JSON object:

    {"format": 1, "model_id", "token_ids": [[...]], "tensors": {name: {"hook_id", "component", "layer", "is_input",
     "layer_name", "axes", "rows": [...], "positions": [[...]], "checksums": [...], "xxh3_64"}}}

`checksums` are those of the manifest, for each row; `xxh3_64` is that of the tensor's bytes in the file. Both are
decimal texts: JSON's numbers end at 2^53.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from neuroscope.errors import ChecksumError, DataConversionError
from neuroscope.sites import Point
from neuroscope.tensors import Array, numpy_dtype, parse_dtype
from neuroscope.v1 import tensor_pb2

if TYPE_CHECKING:
    from neuroscope.cache import ActivationCache

FORMAT = 1
_KEY = "neuroscope"
# safetensors' names of the types, which its own numpy module lacks bfloat16 of.
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredDigest:
    """The checksum of one tensor of a plan in one row, as a file holds it."""

    checksum: int


def save(cache: ActivationCache, path: Path) -> None:
    """Writes a cache."""
    from safetensors.numpy import save_file

    arrays: dict[str, Array] = {}
    tensors: dict[str, dict[str, Any]] = {}
    for activation in cache.activations:
        name = cache.name_of(activation)
        rows = cache.rows_of(activation)
        same = len({activation.row(row).shape for row in rows}) == 1
        for group in [rows] if same else [[row] for row in rows]:
            array = np.ascontiguousarray(np.concatenate([activation.row(row) for row in group]))
            full_name = name if same else f"{name}.{group[0]}"
            arrays[full_name] = array
            tensors[full_name] = {
                "hook_id": activation.hook_id,
                "component": activation.point.component,
                "layer": activation.point.layer,
                "is_input": activation.point.is_input,
                "layer_name": activation.layer_name,
                "axes": [tensor_pb2.Axis.Name(axis) for axis in activation.axes],
                "rows": group,
                "positions": [activation.positions(row) for row in group],
                "checksums": [str(cache.checksum_of(activation, row)) for row in group],
                "xxh3_64": str(_hash(array)),
            }
    description = {
        "format": FORMAT,
        "model_id": cache.model_id,
        "token_ids": cache.token_ids,
        "tensors": tensors,
    }
    save_file(arrays, path, metadata={_KEY: json.dumps(description)})


def load(path: Path) -> ActivationCache:
    """Reads a cache.

    Raises:
        DataConversionError: the file is not one of these.
        ChecksumError: a tensor's bytes were changed.
    """
    from neuroscope.cache import ActivationCache

    description, arrays = _read(path)
    specs: dict[tuple[str, Point], tensor_pb2.TensorSpec] = {}
    digests: dict[tuple[int, int], StoredDigest] = {}
    found: list[tuple[int, int, Array, list[int]]] = []
    for name, tensor in description["tensors"].items():
        array = arrays[name]
        if str(_hash(array)) != tensor["xxh3_64"]:
            raise ChecksumError(f"the bytes of {name!r} in {path} were changed")
        point = Point(tensor["component"], tensor["layer"], tensor["is_input"])
        spec = specs.setdefault((tensor["hook_id"], point), _spec(len(specs), point, tensor, array))
        for index, row in enumerate(tensor["rows"]):
            digests[spec.plan_index, row] = StoredDigest(int(tensor["checksums"][index]))
            found.append((spec.plan_index, row, array[index : index + 1], tensor["positions"][index]))
    cache = ActivationCache()
    cache.begin(description["model_id"], description["token_ids"])
    cache.expect(list(specs.values()), digests)
    for plan_index, row, array, positions in found:
        cache.put(plan_index, row, array, positions)
    return cache


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
        entries: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise DataConversionError(f"{path} is no safetensors file: {error}") from None
    if _KEY not in metadata:
        raise DataConversionError(f"{path} was not written by ActivationCache.save: its metadata lacks {_KEY!r}")
    description: dict[str, Any] = json.loads(metadata[_KEY])
    if description.get("format") != FORMAT:
        raise DataConversionError(f"{path} has format {description.get('format')}; this version reads {FORMAT}")
    return description, dict(_arrays(entries))


def _arrays(entries: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, Array]]:
    for name, entry in entries:
        dtype = numpy_dtype(parse_dtype(_TYPES[entry["dtype"]]))
        yield name, np.frombuffer(entry["data"], dtype).reshape(entry["shape"])


def _spec(index: int, point: Point, tensor: dict[str, Any], array: Array) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        plan_index=index,
        hook_id=tensor["hook_id"],
        site=point.to_message(),
        layer_name=tensor["layer_name"],
        dtype=parse_dtype(array.dtype.name),
        axes=[tensor_pb2.Axis.Value(axis) for axis in tensor["axes"]],
    )


def _hash(array: Array) -> int:
    return xxhash.xxh3_64_intdigest(array.reshape(-1).view(np.uint8).data)
