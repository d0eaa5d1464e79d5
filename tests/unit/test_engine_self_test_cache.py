"""A model is proved once; what its verdict follows from is proved anew when it changes.

python -m pytest tests/unit/test_engine_self_test_cache.py
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from neuroscope.errors import ModelUnsupportedError
from neuroscope_inference.engine import self_test, self_test_cache
from neuroscope_inference.engine.loading import LoadRequest, load
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.local import LocalTransport
from tests.support.loaded import capture_here
from tests.support.random_models import make_model

IDS = [3, 14, 15, 92]


@pytest.fixture(params=["gpt_neox", "mixtral", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_model(request.param, tmp_path / request.param)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for every self-test that ran."""
    ran: list[Any] = []
    plain = self_test.run
    monkeypatch.setattr(self_test, "run", lambda *args: ran.append(args) or plain(*args))
    return ran


def load_with(verdict_folder: Path | None, folder: Path, adapter_path: str = "") -> LoadedModel:
    *_, model = load(LoadRequest(folder, str(folder), folder.name, adapter_path, verdict_folder))
    assert isinstance(model, LoadedModel)
    return model


def test_the_second_load_runs_no_self_test_and_is_the_same(folder: Path, tmp_path: Path, proofs: list[Any]) -> None:
    first, second = (load_with(tmp_path / "cache", folder) for _ in range(2))
    assert len(proofs) == 1
    assert [str(point) for point in second.describe().points] == [str(point) for point in first.describe().points]
    assert second.self_test == first.self_test
    assert second.capabilities == first.capabilities
    assert [state.axes_extents for state in second.layout.states] == [s.axes_extents for s in first.layout.states]
    captured, again = capture_here(first, IDS), capture_here(second, IDS)
    assert captured.keys() == again.keys()
    for point, value in captured.items():
        assert mx.array_equal(mx.array(value), mx.array(again[point])).item(), point


def touch(folder: Path) -> None:
    os.utime(folder / "model.safetensors", ns=(1, 1))


def rewrite_config(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"note": "changed"}))


@pytest.mark.parametrize("change", [touch, rewrite_config])
def test_files_that_changed_are_proved_anew(
    llama_dir: Path, tmp_path: Path, proofs: list[Any], change: Callable[[Path], None]
) -> None:
    folder = make_model("llama", tmp_path / "llama")
    load_with(tmp_path / "cache", folder)
    change(folder)
    load_with(tmp_path / "cache", folder)
    assert len(proofs) == 2


@pytest.mark.parametrize("package", ["neuroscope-mlx", "mlx", "mlx-lm"])
def test_another_version_proves_anew(
    llama_dir: Path, tmp_path: Path, proofs: list[Any], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    load_with(tmp_path, llama_dir)
    plain = self_test_cache.version
    monkeypatch.setattr(self_test_cache, "version", lambda name: "99" if name == package else plain(name))
    load_with(tmp_path, llama_dir)
    assert len(proofs) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"points": {}}', "null"])
def test_a_damaged_verdict_counts_as_none(llama_dir: Path, tmp_path: Path, proofs: list[Any], content: str) -> None:
    load_with(tmp_path, llama_dir)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    load_with(tmp_path, llama_dir)
    assert len(proofs) == 2
    load_with(tmp_path, llama_dir)
    assert len(proofs) == 2


def test_a_cache_that_cannot_be_written_refuses_no_model(llama_dir: Path, tmp_path: Path, proofs: list[Any]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        load_with(tmp_path / "cache", llama_dir)
    assert len(proofs) == 2


def test_a_refused_model_leaves_no_verdict(llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ModelUnsupportedError("hooks change this model's logits", field="model_path")

    monkeypatch.setattr(self_test, "run", refuse)
    with pytest.raises(ModelUnsupportedError):
        load_with(tmp_path, llama_dir)
    assert not list(tmp_path.iterdir())


def test_old_results_make_room(llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_with(None, llama_dir)
    monkeypatch.setattr(self_test_cache, "_MAX_FILES", 3)
    for index in range(5):
        self_test_cache.store(tmp_path, str(index), model.layout, model.self_test, model.capabilities)
        os.utime(tmp_path / f"{index}.json", ns=(index, index))
    assert {file.stem for file in tmp_path.iterdir()} == {"2", "3", "4"}


@pytest.mark.parametrize("caches", [True, False])
def test_the_setting_decides(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proofs: list[Any], caches: bool
) -> None:
    monkeypatch.setenv("NEUROSCOPE_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        LocalTransport(model=[str(llama_dir)], cache_self_tests=caches).close()
    assert len(proofs) == (1 if caches else 2)
    assert bool(list(tmp_path.glob("self-tests/*.json"))) == caches
