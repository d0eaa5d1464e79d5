"""A GGUF file as a folder that mlx-lm loads, in the user's cache.

The folder is written once for a file (its path, size and time of change) and kept; weights stay quantised where MLX has
the form, and what was changed stands in gguf.json. It is whole or not there: it is written under another name first.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import xxhash
from numpy.typing import NDArray

from neuroscope.cache_folder import cache_folder
from neuroscope.errors import ModelCorruptError, ModelNotFoundError, ResourceExhaustedError
from neuroscope_inference.gguf.architectures import ModelReader
from neuroscope_inference.gguf.file import GgufFile, TensorInfo
from neuroscope_inference.gguf.tensor_types import GROUP_SIZE
from neuroscope_inference.gguf.tokenizer import GgufTokenizer

ReportProgress = Callable[[int, int], None]
"""Is called with the bytes read so far and all of them."""
SUFFIX = ".gguf"
NOTES = "gguf.json"
"""What was changed, in the folder."""
_VERSION = 2
"""Of what is written; another one makes new folders."""
_FILE_BYTES = 2 * 2**30
_TABLES = ("model.embed_tokens", "lm_head")


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one of a folder that has no config.json; None: none.

    Raises:
        ModelNotFoundError: the folder has several; names them.
    """
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(each for each in path.iterdir() if each.suffix.lower() == SUFFIX)
    if len(files) > 1:
        names = tuple(str(each) for each in files)
        raise ModelNotFoundError(
            f"{path} has {len(files)} GGUF files, name one: {', '.join(each.name for each in files)}",
            field="model_path",
            valid=names,
        )
    return files[0] if files else None


def convert(
    path: Path, report: ReportProgress = lambda done, total: None, *, dtype: str = "", cache: Path | None = None
) -> Path:
    """The folder of a GGUF file, written where it is not there yet.

    Args:
        path: of the file.
        report: is called as tensors are read; what it raises ends the conversion.
        dtype: of scales and of all that is not quantised; empty: float16, and for gemma bfloat16.
        cache: where folders are written; None: `cache_folder()`.

    Raises:
        ModelCorruptError, ModelUnsupportedError: the file is damaged, or not one that is read; names key or tensor.
        ResourceExhaustedError: the disk has no room for it.
    """
    cache = cache_folder("gguf") if cache is None else cache
    folder = cache / _key(path, dtype)
    if is_conversion(folder):
        return folder
    with GgufFile(path) as file:
        reader, tokenizer = ModelReader(file, dtype), GgufTokenizer(file)
        needed = sum(tensor.length_bytes for tensor in file.tensors.values())
        unfinished = cache / f".{folder.name}-{uuid.uuid4().hex}"
        try:
            unfinished.mkdir(parents=True)
            if shutil.disk_usage(cache).free < 2 * needed:
                raise ResourceExhaustedError(
                    f"{cache} has no room for {path.name}: up to {2 * needed / 1e9:.1f} GB are needed (set "
                    "NEUROSCOPE_CACHE_DIR)",
                    field="model_path",
                )
            _write(file, reader, tokenizer, unfinished, report)
            if not folder.exists():
                unfinished.rename(folder)
        except OSError as error:
            raise ResourceExhaustedError(
                f"{cache} cannot be written: {error.strerror or error}", field="model_path"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _key(path: Path, dtype: str) -> str:
    found = path.stat()
    content = json.dumps([_VERSION, dtype, str(path.resolve()), found.st_size, found.st_mtime_ns])
    return f"{path.stem[:80]}-{xxhash.xxh3_64_hexdigest(content.encode())}"


def _write(file: GgufFile, reader: ModelReader, tokenizer: GgufTokenizer, folder: Path, report: ReportProgress) -> None:
    quantised: dict[str, dict[str, int]] = {}
    counts: Counter[str] = Counter()
    shards = _Shards(folder)
    total = sum(tensor.length_bytes for tensor in file.tensors.values())
    done = 0
    missing = {"model.embed_tokens.weight", "model.norm.weight"}
    report(0, total)
    for tensor in file.tensors.values():
        name = reader.weight_name(tensor.name)
        if name:
            missing.discard(name)
            arrays, how = _convert_tensor(file, reader, tensor, name)
            counts[how] += 1
            for part, array in arrays:
                shards.add(part, array)
            if bits := _bits(tensor, name):
                quantised[name.removesuffix(".weight")] = {"group_size": GROUP_SIZE, "bits": bits}
        done += tensor.length_bytes
        report(done, total)
    if missing:
        raise ModelCorruptError(f"{file.path} lacks the tensor of {min(missing)}", field="model_path")
    shards.finish()
    config = dict(reader.config)
    if quantised:
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": 4, **quantised}
    eos = tokenizer.config.get("eos_token")
    if eos is not None:
        config["eos_token_id"] = tokenizer.tokenizer.token_to_id(eos)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", tokenizer.config)
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    notes = [f"{count} tensors: {how}" for how, count in sorted(counts.items())]
    _write_json(folder / NOTES, {"file": str(file.path), "notes": notes})


def _bits(tensor: TensorInfo, name: str) -> int:
    """Bits of a tensor that stays quantised; 0: it does not."""
    is_matrix = len(tensor.shape) == 2 and name.endswith(".weight") and "norm" not in name
    return tensor.type.bits if is_matrix else 0


def _convert_tensor(
    file: GgufFile, reader: ModelReader, tensor: TensorInfo, name: str
) -> tuple[list[tuple[str, NDArray[Any]]], str]:
    """The arrays of a tensor by their names, and in words what became of it."""
    blocks, order, dtype = file.blocks(tensor), reader.row_order(tensor.name), reader.dtype
    if _bits(tensor, name) and tensor.type.quantise is not None:
        matrix = tensor.type.quantise(blocks)
        if order is not None:
            matrix = matrix.rows(order)
        module = name.removesuffix(".weight")
        scales, biases = (_cast(part, dtype) for part in (matrix.scales, matrix.biases))
        kept = [(name, matrix.weight), (f"{module}.scales", scales), (f"{module}.biases", biases)]
        return kept, f"{tensor.type.name} keeps its {matrix.bits} bits, in groups of {GROUP_SIZE}"
    array = tensor.type.dequantise(blocks).reshape(tensor.shape)
    if order is not None:
        array = array[order]
    if reader.has_shifted_norm(tensor.name):
        array = array.astype(np.float32) - 1
    return [(name, _cast(array, dtype))], f"{tensor.type.name} becomes {dtype}"


def _cast(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))


@dataclass
class _Shards:
    """Files of weights, each of at most 2 GiB."""

    folder: Path
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    _length_bytes: int = 0
    _count: int = 0

    def add(self, name: str, array: NDArray[Any]) -> None:
        if self._arrays and self._length_bytes + array.nbytes > _FILE_BYTES:
            self.finish()
        self._arrays[name] = np.ascontiguousarray(array)
        self._length_bytes += array.nbytes

    def finish(self) -> None:
        from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

        self._count += 1
        save_file(self._arrays, self.folder / f"model-{self._count:05}.safetensors", metadata={"format": "mlx"})
        self._arrays, self._length_bytes = {}, 0


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_conversion(folder: Path) -> bool:
    """Whether a folder was made of a GGUF file."""
    return (folder / NOTES).is_file()


def conversion_notes(folder: Path) -> Iterator[str]:
    """Of which file a folder was made, and what was changed; nothing for other folders."""
    if is_conversion(folder):
        written = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        yield f"read from {written['file']}"
        yield from written["notes"]
