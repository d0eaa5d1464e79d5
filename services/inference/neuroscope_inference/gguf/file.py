"""The container of a GGUF file: metadata by key, and where each tensor lies. Reads no tensor.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every count and
offset is checked against the size of the file, so that a damaged file is an error that names the key or the tensor.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelCorruptError, ModelUnsupportedError
from neuroscope_inference.gguf.tensor_types import TENSOR_TYPES, TensorType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = "general.alignment"
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_SPLIT_COUNT = "split.count"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file."""

    name: str
    shape: tuple[int, ...]
    """Extents, outermost first, as numpy has them."""
    type: TensorType
    offset_bytes: int
    """From the beginning of the file."""

    @property
    def length_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.type.block_size * self.type.block_bytes


class GgufFile:
    """A GGUF file that is open for reading.

    Args:
        path: of the file.

    Attributes:
        metadata: values by key, as Python values.
        tensors: by name, in the order of the file.

    Raises:
        ModelCorruptError: the file is damaged or cut off; names the key or the tensor.
        ModelUnsupportedError: another version, a tensor type that is not read, or one part of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # a file of no bytes cannot be mapped
            raise ModelCorruptError(f"{path} cannot be read: {error}", field="model_path") from error
        header = _HeaderReader(self._bytes, path)
        self.metadata, self.tensors = header.read()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bytes.close()

    def blocks(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        """The bytes of a tensor, (rows, bytes of a row): rows are all axes but the last. A copy."""
        first = tensor.offset_bytes
        flat = np.frombuffer(self._bytes[first : first + tensor.length_bytes], np.uint8)
        return flat.reshape(math.prod(tensor.shape[:-1]), -1)


class _HeaderReader:
    """Reads the header from the beginning to the end."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self._content = content
        self._path = path
        self._place = 0
        self._part = "the header"

    def read(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self._take(4) != _MAGIC:
            raise ModelCorruptError(f"{self._path} is not a GGUF file", field="model_path")
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise ModelUnsupportedError(
                f"{self._path} has version {version} of GGUF; versions 2 and 3, little-endian, are read",
                field="model_path",
            )
        tensor_count, key_count = self._scalar("Q"), self._scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            self._part = f"the key after {next(reversed(metadata), 'the header')!r}"
            key = self._string()
            self._part = f"the key {key!r}"
            metadata[key] = self._value(self._scalar("I"))
        if metadata.get(_SPLIT_COUNT, 1) > 1:
            raise ModelUnsupportedError(
                f"{self._path} is one of {metadata[_SPLIT_COUNT]} parts ({_SPLIT_COUNT}); join them with "
                "llama-gguf-split --merge",
                field="model_path",
            )
        described = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get(_ALIGNMENT, 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._corrupt(f"{_ALIGNMENT} is {alignment!r}")
        start = -(-self._place // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in described:
            tensor = TensorInfo(name, shape, kind, start + offset)
            if tensor.offset_bytes + tensor.length_bytes > len(self._content):
                missing = tensor.offset_bytes + tensor.length_bytes - len(self._content)
                raise self._corrupt(f"it is cut off: {missing} bytes of the tensor {name!r} are missing")
            tensors[name] = tensor
        return metadata, tensors

    def _tensor(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        self._part = "the list of tensors"
        name = self._string()
        self._part = f"the tensor {name!r}"
        dimensions = self._scalar("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._corrupt(f"{self._part} has {dimensions} axes")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        number = self._scalar("I")
        if number not in TENSOR_TYPES:
            raise ModelUnsupportedError(
                f"{self._path}: {self._part} has the type {number}, which is not read; types that are: "
                f"{', '.join(each.name for each in TENSOR_TYPES.values())}",
                field="model_path",
            )
        kind = TENSOR_TYPES[number]
        if not all(shape) or shape[-1] % kind.block_size or math.prod(shape) > len(self._content) * kind.block_size:
            raise self._corrupt(f"{self._part} has the shape {shape}, which {kind.name} cannot have in this file")
        return name, shape, kind, self._scalar("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, count = self._scalar("I"), self._scalar("Q")
            if element == _STRING:
                self._check_available(count)
                return [self._string() for _ in range(count)]
            if element in _SCALARS:
                code = _SCALARS[element]
                content = self._take(count * struct.calcsize(f"<{code}"))
                return list(struct.unpack(f"<{count}{code}", content))
            raise self._corrupt(f"{self._part} is a list of elements of the unknown type {element}")
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        raise self._corrupt(f"{self._part} has the unknown type {kind}")

    def _string(self) -> str:
        length = self._scalar("Q")
        try:
            return self._take(length).decode("utf-8", "surrogateescape")
        except UnicodeDecodeError as error:
            raise self._corrupt(f"{self._part} is not text: {error}") from None

    def _scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _take(self, length: int) -> bytes:
        self._check_available(length)
        taken = self._content[self._place : self._place + length]
        self._place += length
        return taken

    def _check_available(self, length: int) -> None:
        if length > len(self._content) - self._place:
            raise self._corrupt(f"it is cut off, or damaged, within {self._part}")

    def _corrupt(self, what: str) -> ModelCorruptError:
        return ModelCorruptError(f"{self._path}: {what}", field="model_path")
