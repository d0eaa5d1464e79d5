"""The type of weights, and whether they stay quantised, as a load asks for it or as suits the device.

python -m pytest tests/integration/test_weights_forms.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neuroscope import Client
from neuroscope.errors import DataConversionError, IdTakenError, InvalidRequestError
from neuroscope.v1.inference_pb2 import Model, Quantization
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope_inference.engine import weights_form
from tests.support.compare import relative_error
from tests.support.gguf_files import QUANTISED, write_model

PROMPT = "Mary gave the silver key to"
FOUR_BITS = Quantization(bits=4, group_size=32, mode="affine", matrices=30)
"""Of a llama of four layers: seven matrices a layer, embedding and head."""


@pytest.fixture(scope="module")
def path(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(llama_dir, tmp_path_factory.mktemp("gguf") / "small.gguf", QUANTISED.Q4_1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSCOPE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache-of-forms"))


@pytest.fixture
def client() -> Iterator[Client]:
    with Client.local() as client:
        yield client


def logits(client: Client, model: Model) -> np.ndarray:
    return client.capture(PROMPT, ["logits"], model_id=model.model_id)["logits"].astype(np.float32)


def test_every_form_computes_the_same(client: Client, path: Path):
    kept = client.load_model(path, model_id="kept", dequantize=False)
    assert (list(kept.quantization), dtype_name(kept.dtype)) == ([FOUR_BITS], "float32")
    assert any("Q4_1 keeps its 4 bits, in groups of 32" in note for note in kept.notes)
    assert f"read from {path}" in kept.notes
    expected = logits(client, kept)
    for dtype, tolerance in {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.1}.items():
        plain = client.load_model(path, model_id=dtype, dtype=dtype, dequantize=True)
        assert (list(plain.quantization), dtype_name(plain.dtype)) == ([], dtype)
        assert any(f"were dequantised to {dtype}" in note for note in plain.notes)
        assert plain.weights_bytes == plain.parameter_count * (4 if dtype == "float32" else 2)
        assert relative_error(logits(client, plain), expected) <= tolerance


def test_what_suits_the_device_is_chosen_and_said(client: Client, path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = client.load_model(path, model_id="on a cpu")
    assert not chosen.quantization
    assert any("MLX's CPU backend is slow with quantised ones" in note for note in chosen.notes)
    monkeypatch.setattr(weights_form, "_available_bytes", lambda: 1_000_000)
    small = client.load_model(path, model_id="no room")
    assert list(small.quantization) == [FOUR_BITS]
    assert any(note.startswith("weights stay quantised, which is slow") for note in small.notes)
    monkeypatch.setattr(weights_form, "on_cpu", lambda: False)
    elsewhere = client.load_model(path, model_id="on Metal")
    assert list(elsewhere.quantization) == [FOUR_BITS]
    assert not any("slow" in note for note in elsewhere.notes)


def test_a_budget_of_memory_keeps_weights_quantised(path: Path):
    with Client.local(model_memory_bytes=2_000_000) as client:
        assert list(client.load_model(path).quantization) == [FOUR_BITS]


def test_a_folder_changes_its_type_and_stays_as_it_is_otherwise(client: Client, llama_dir: Path):
    plain = client.load_model(llama_dir)
    assert (list(plain.notes), list(plain.quantization)) == ([], [])
    half = client.load_model(llama_dir, model_id="half", dtype="bfloat16", dequantize=True)
    assert list(half.notes) == ["weights in float32 became bfloat16"]
    assert relative_error(logits(client, half), logits(client, plain)) <= 0.1


def test_another_form_of_a_loaded_model_needs_another_id(client: Client, path: Path):
    client.load_model(path, dtype="float32")
    assert client.load_model(path, dequantize=True).model_id == "small"
    with pytest.raises(
        IdTakenError, match="'small' is taken by the same model with dequantised weights; choose another"
    ):
        client.load_model(path, dequantize=False)


def test_a_type_that_models_do_not_compute_in_is_named(client: Client, path: Path):
    with pytest.raises(DataConversionError, match="unknown dtype 'float23'; did you mean float32") as caught:
        client.load_model(path, dtype="float23")
    assert caught.value.field == "dtype"
    with pytest.raises(
        InvalidRequestError, match="models compute in float32, float16, bfloat16, not in int32"
    ) as found:
        client.load_model(path, dtype="int32")
    assert found.value.field == "dtype"
