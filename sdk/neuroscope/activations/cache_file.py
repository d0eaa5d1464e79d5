"""Activation caches as safetensors files.

Tensors are named `component.layer`, or `component.layer.row` if rows have different lengths. They have the axes of the
cache; bfloat16 stays bfloat16. The metadata has one entry, `neuroscope`, a JSON object:

    {"format": 1, "model_id", "token_ids": [[...]], "tensors": {name: {"hook_id", "component", "layer", "is_input",
     "layer_name", "reduced", "axes", "rows": [...], "positions": [...], "checksums": [...], "xxh3_64"}}}

For each row, `positions` is a list, or {"start", "stop"} if contiguous, and `checksums` has the manifest's checksum.
`xxh3_64` is the hash of the tensor's bytes in the file. Checksums are decimal strings, since JSON numbers are exact
only up to 2^53.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from neuroscope.activations.activation import Activation
from neuroscope.errors import ChecksumError, DataConversionError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array, parse_dtype
from neuroscope.wire import safetensors_file

FORMAT = 1
_KEY = "neuroscope"


@dataclass(frozen=True, slots=True)
class StoredDigest:
    """The stored checksum of one tensor of a plan in one row."""

    checksum: int


@dataclass(frozen=True, slots=True)
class StoredCache:
    """The content of a file."""

    model_id: str
    token_ids: list[list[int]]
    """Token ids of each row."""
    tensors: list[tensor_pb2.TensorSpec]
    digests: dict[tuple[int, int], StoredDigest]
    """Checksums by plan index and row."""
    rows: list[tuple[int, int, Array, list[int]]]
    """Plan index, row index, array (1, ...) and positions."""


def write(
    path: Path,
    *,
    model_id: str,
    token_ids: Sequence[Sequence[int]],
    activations: Mapping[str, Activation],
    checksum: Callable[[Activation, int], int],
) -> None:
    """Writes a file.

    Args:
        path: file to write.
        model_id: the model that ran.
        token_ids: token ids of each row.
        activations: activations by name.
        checksum: returns the manifest's checksum of an activation in a row.
    """
    from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

    arrays: dict[str, Array] = {}
    tensors: dict[str, dict[str, Any]] = {}
    for name, activation in activations.items():
        for full_name, rows in _groups(name, activation):
            arrays[full_name] = np.ascontiguousarray(np.concatenate([activation.row(row) for row in rows]))
            tensors[full_name] = {
                "hook_id": activation.hook_id,
                "component": activation.point.component,
                "layer": activation.point.layer,
                "is_input": activation.point.is_input,
                "layer_name": activation.layer_name,
                "reduced": activation.reduced,
                "axes": [tensor_pb2.Axis.Name(axis) for axis in activation.axes],
                "rows": rows,
                "positions": [_packed(activation.positions(row)) for row in rows],
                "checksums": [str(checksum(activation, row)) for row in rows],
                "xxh3_64": str(_hash(arrays[full_name])),
            }
    description = {"format": FORMAT, "model_id": model_id, "token_ids": token_ids, "tensors": tensors}
    save_file(arrays, path, metadata={_KEY: json.dumps(description)})


def read(path: Path) -> StoredCache:
    """Reads a file.

    Raises:
        DataConversionError: the file has other content.
        ChecksumError: a tensor was modified.
    """
    try:
        description, arrays = _parts(path.read_bytes())
        if description["format"] != FORMAT:
            raise ValueError(f"it has format {description['format']}, this version reads {FORMAT}")
        return _stored(description, arrays)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataConversionError(f"{path} was not written by ActivationCache.save, or is damaged: {error}") from None


def _stored(description: dict[str, Any], arrays: dict[str, Array]) -> StoredCache:
    specs: dict[tuple[str, Point, str], tensor_pb2.TensorSpec] = {}
    digests: dict[tuple[int, int], StoredDigest] = {}
    rows: list[tuple[int, int, Array, list[int]]] = []
    for name, tensor in description["tensors"].items():
        array = arrays[name]
        if str(_hash(array)) != tensor["xxh3_64"]:
            raise ChecksumError(f"the bytes of {name!r} were changed since they were saved")
        point = Point(tensor["component"], tensor["layer"], tensor["is_input"])
        key = tensor["hook_id"], point, tensor.get("reduced", "")
        spec = specs.setdefault(key, _spec(len(specs), point, tensor, array))
        for index, row in enumerate(tensor["rows"]):
            digests[spec.plan_index, row] = StoredDigest(int(tensor["checksums"][index]))
            rows.append((spec.plan_index, row, array[index : index + 1], _unpacked(tensor["positions"][index])))
    token_ids = [list(ids) for ids in description["token_ids"]]
    return StoredCache(description["model_id"], token_ids, list(specs.values()), digests, rows)


def _groups(name: str, activation: Activation) -> Iterator[tuple[str, list[int]]]:
    """Rows to store as one array: all, or one by one if they have different lengths."""
    rows = activation.rows
    if len({activation.row(row).shape for row in rows}) == 1:
        yield name, rows
    else:
        yield from ((f"{name}.{row}", [row]) for row in rows)


def _parts(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The description and the tensors, as views of the file's bytes."""
    arrays, metadata = safetensors_file.read(data)
    return json.loads(metadata[_KEY]), arrays


def _spec(index: int, point: Point, tensor: dict[str, Any], array: Array) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        plan_index=index,
        hook_id=tensor["hook_id"],
        site=point.to_message(),
        layer_name=tensor["layer_name"],
        dtype=parse_dtype(array.dtype.name),
        axes=[tensor_pb2.Axis.Value(axis) for axis in tensor["axes"]],
        reduced=tensor_pb2.Reduced.Value(f"REDUCED_{(tensor.get('reduced') or 'unspecified').upper()}"),
    )


def _packed(positions: list[int]) -> list[int] | dict[str, int]:
    if positions and positions == list(range(positions[0], positions[-1] + 1)):
        return {"start": positions[0], "stop": positions[-1] + 1}
    return positions


def _unpacked(positions: list[int] | dict[str, int]) -> list[int]:
    return list(range(positions["start"], positions["stop"]) if isinstance(positions, dict) else positions)


def _hash(array: Array) -> int:
    return xxhash.xxh3_64_intdigest(array.reshape(-1).view(np.uint8).data)
