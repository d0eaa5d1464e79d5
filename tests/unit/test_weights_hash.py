"""The hash of a checkpoint: equal for the same one anywhere, another for everything that changes what runs.

python -m pytest tests/unit/test_weights_hash.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from neuroscope_inference.engine import weights_hash as hashing
from neuroscope_inference.engine.weights_hash import weights_hash

Arrays = dict[str, NDArray[Any]]


def tensors() -> Arrays:
    draw = np.random.default_rng(0)
    return {f"layers.{layer}.weight": draw.normal(size=(64, 32)).astype(np.float32) for layer in range(3)}


def checkpoint(folder: Path, *files: Mapping[str, NDArray[Any]], **config: Any) -> Path:
    folder.mkdir()
    for number, arrays in enumerate(files):
        save_file(dict(arrays), folder / f"model-{number}.safetensors", metadata={"format": folder.name})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "_name_or_path": folder.name, **config}))
    return folder


def test_the_same_checkpoint_has_one_hash(tmp_path: Path) -> None:
    """Elsewhere, cut into other files, with other notes."""
    arrays = tensors()
    first, *others = ({name: array} for name, array in reversed(arrays.items()))
    one = weights_hash(checkpoint(tmp_path / "one", arrays))
    assert len(one) == 32
    assert weights_hash(checkpoint(tmp_path / "another", first, others[0] | others[1])) == one


@pytest.mark.parametrize("is_large", [False, True])
def test_every_change_has_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    """Numbers at the beginning, in the middle and at the end of a tensor; dtype, shape, name; the quantisation."""
    if is_large:
        monkeypatch.setattr(hashing, "_WHOLE_BYTES", 0)
        monkeypatch.setattr(hashing, "_SHORT_BYTES", 0)
        monkeypatch.setattr(hashing, "_SAMPLE_BYTES", 64)
    name = "layers.1.weight"
    whole = tensors()[name]
    changes: list[Arrays] = [
        {name: whole.astype(np.float16)},
        {name: whole.reshape(32, 64)},
        {"layers.1.bias": whole},
    ]
    for place in (0, whole.size // 2, whole.size - 1):
        changed = whole.copy()
        changed.reshape(-1)[place] += 1e-3
        changes.append({name: changed})
    rest = {other: array for other, array in tensors().items() if other != name}
    found = [weights_hash(checkpoint(tmp_path / "plain", tensors()))]
    found += [weights_hash(checkpoint(tmp_path / f"{i}", rest | change)) for i, change in enumerate(changes)]
    found.append(weights_hash(checkpoint(tmp_path / "q", tensors(), quantization={"bits": 4, "group_size": 32})))
    assert len(set(found)) == len(found)


def test_an_adapter_is_part_of_what_runs(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", tensors())
    found = [weights_hash(folder)]
    for number, (scale, value) in enumerate(((10.0, 1.0), (20.0, 1.0), (10.0, 2.0))):
        adapter = tmp_path / f"adapter-{number}"
        adapter.mkdir()
        save_file({"lora_a": np.full((4, 2), value, np.float32)}, adapter / "adapters.safetensors")
        config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"scale": scale}, "data": str(number)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        found.append(weights_hash(folder, str(adapter)))
    assert len(set(found)) == 4


def test_large_checkpoints_are_sampled(tmp_path: Path) -> None:
    """A sparse file of 4 GB: no time is there to read it."""
    folder = tmp_path / "large"
    folder.mkdir()
    length = 4 * 2**30
    header = json.dumps({"weight": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + length)
    (folder / "config.json").write_text("{}")
    before = weights_hash(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    assert weights_hash(folder) != before
