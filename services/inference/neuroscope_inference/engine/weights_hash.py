"""A hash of a checkpoint that tells it from others without reading it whole.

It is of every tensor's name, dtype, shape and bytes: all bytes of a checkpoint of up to 64 MiB; of a larger one those
of tensors of up to 64 KiB, and of the others three samples of 4 KiB, at the beginning, in the middle and at the end. A
model of 70 billion parameters has some 720 tensors, of which 9 MB are read. Any step of training, merging or quantising
changes next to every number of what it touches, so samples see it; a single number that is changed by hand in a large
checkpoint may go unseen. Where the files lie, how they are called, and how tensors are spread over them does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

_WHOLE_BYTES = 64 * 2**20
"""Of a checkpoint that is read whole."""
_SHORT_BYTES = 64 * 2**10
"""Of a tensor that is read whole."""
_SAMPLE_BYTES = 4 * 2**10
_SAMPLES = 3
_QUANTISED_BY = ("quantization", "quantization_config")
_ADAPTED_BY = ("fine_tune_type", "num_layers", "lora_parameters")
"""What mlx-lm reads of adapter_config.json."""


@dataclass(frozen=True, slots=True)
class _TensorLocation:
    """Where a tensor lies."""

    name: str
    kind: str
    """Dtype and shape."""
    file: Path
    first: int
    end: int


def weights_hash(folder: Path, adapter_path: str = "") -> str:
    """The hash of a model as it is loaded, 32 hexadecimal digits.

    Args:
        folder: of the model.
        adapter_path: of what is added to it; empty: nothing.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    digest = xxhash.xxh3_128()
    for part in _parts(folder, "model*.safetensors", "config.json", _QUANTISED_BY):
        digest.update(part)
    if adapter_path:
        for part in _parts(Path(adapter_path), "adapters.safetensors", "adapter_config.json", _ADAPTED_BY):
            digest.update(part)
    return digest.hexdigest()


def _parts(folder: Path, pattern: str, config: str, settings: tuple[str, ...]) -> Iterator[bytes]:
    """What is hashed; every part but the bytes of tensors ends with a zero."""
    tensors = sorted(
        (tensor for file in folder.glob(pattern) for tensor in _tensors(file)), key=lambda tensor: tensor.name
    )
    is_small = sum(tensor.end - tensor.first for tensor in tensors) <= _WHOLE_BYTES
    written: Mapping[str, Any] = json.loads((folder / config).read_text())
    yield json.dumps({name: written.get(name) for name in settings}, sort_keys=True).encode() + b"\0"
    for tensor in tensors:
        yield f"{tensor.name} {tensor.kind}".encode() + b"\0"
        with tensor.file.open("rb") as stream:
            for first, end in _samples(tensor, is_whole=is_small):
                stream.seek(first)
                yield stream.read(end - first)


def _tensors(file: Path) -> Iterator[_TensorLocation]:
    """The tensors of a safetensors file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    for name, described in header.items():
        if name != "__metadata__":
            first, end = described["data_offsets"]
            kind = f"{described['dtype']} {described['shape']}"
            yield _TensorLocation(name, kind, file, 8 + length + first, 8 + length + end)


def _samples(tensor: _TensorLocation, *, is_whole: bool) -> Iterator[tuple[int, int]]:
    length = tensor.end - tensor.first
    if is_whole or length <= _SHORT_BYTES:
        yield tensor.first, tensor.end
        return
    for number in range(_SAMPLES):
        first = tensor.first + number * (length - _SAMPLE_BYTES) // (_SAMPLES - 1)
        yield first, first + _SAMPLE_BYTES
