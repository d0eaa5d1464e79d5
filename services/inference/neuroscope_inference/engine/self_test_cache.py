"""Results of the self-test, cached on disk so that a model is tested once and not at every load.

The key covers everything that a result depends on: the model's files (names, sizes, times of their last change, headers
and configuration), the adapter, the engine's own code, the versions of mlx and mlx-lm, the device. Where one of them
changes, the model is tested again. A file that cannot be read counts as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import xxhash
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from neuroscope.v1 import inference_pb2
from neuroscope_inference.engine.capabilities import ModelCapabilities
from neuroscope_inference.engine.layout import Layout

_MAX_FILES = 64
_PACKAGES = ("neuroscope-mlx", "mlx", "mlx-lm")


def cache_key(model: Path, adapter_path: str, form: str = "") -> str:
    """The hash of all that a self-test result follows from.

    Args:
        model: its folder.
        adapter_path: folder of its adapter; empty: it has none.
        form: in which its weights are in memory.

    Raises:
        OSError: a file cannot be read.
    """
    digest = xxhash.xxh3_128()
    for part in (form.encode(), *_parts(model, adapter_path)):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def restore(folder: Path, key: str, layout: Layout) -> tuple[inference_pb2.SelfTest, ModelCapabilities] | None:
    """Hooks the model and gives it the self-test result of that key; None if there is none that fits it."""
    try:
        kept = json.loads((folder / f"{key}.json").read_text())
        points: dict[str, Any] = kept["points"]
        if set(points) != {str(state.point) for state in layout.states} or len(kept["rules"]) != layout.num_layers:
            return None
        self_test = ParseDict(kept["self_test"], inference_pb2.SelfTest())
        capabilities = ModelCapabilities(**kept["abilities"])
        states = [(points[str(state.point)], state) for state in layout.states]
        proved = [(reason, path, tuple(extents), getattr(mx, dtype)) for (reason, path, extents, dtype), _ in states]
        rules, orders = [str(rule) for rule in kept["rules"]], [str(order) for order in kept["orders"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParseError):
        return None
    layout.install_hooks()
    for (reason, path, extents, dtype), (_, state) in zip(proved, states, strict=True):
        state.reason, state.module_path, state.axes_extents, state.dtype = reason, path, extents, dtype
    for block, columns, rule, order in zip(layout.blocks, layout.columns, rules, orders, strict=True):
        columns.order = order
        if block.routing is not None:
            block.routing.rule = rule
    return self_test, capabilities


def store(
    folder: Path, key: str, layout: Layout, self_test: inference_pb2.SelfTest, capabilities: ModelCapabilities
) -> None:
    """Writes a self-test result, whole or not at all, and lets go of the oldest ones."""
    kept = {
        "self_test": MessageToDict(self_test),
        "abilities": asdict(capabilities),
        "points": {
            str(s.point): [s.reason, s.module_path, s.axes_extents, str(s.dtype).rpartition(".")[2]]
            for s in layout.states
        },
        "rules": [block.routing.rule if block.routing is not None else "" for block in layout.blocks],
        "orders": [columns.order for columns in layout.columns],
    }
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to refuse a model
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{key}.{os.getpid()}.tmp"
        unfinished.write_text(json.dumps(kept))
        unfinished.replace(folder / f"{key}.json")
        by_age = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for file in by_age[_MAX_FILES:]:
            file.unlink(missing_ok=True)


def _parts(model: Path, adapter_path: str) -> Iterator[bytes]:
    yield " ".join([*map(version, _PACKAGES), platform.machine(), str(mx.default_device())]).encode()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        yield file.read_bytes()
    for folder in (model, Path(adapter_path)) if adapter_path else (model,):
        for file in sorted(folder.glob("*.json")):
            yield file.name.encode()
            yield file.read_bytes()
        for file in sorted(folder.glob("*.safetensors")):
            status = file.stat()
            yield f"{file.name} {status.st_size} {status.st_mtime_ns}".encode()
            yield _header(file)


def _header(file: Path) -> bytes:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(min(length, 1 << 26))
