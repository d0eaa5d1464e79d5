"""neuroscope.activations.lens against the numpy reference forward pass, which shares no code with it."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuroscope.activations.lens import LogitLens
from neuroscope.errors import ModelNotFoundError, ModelUnsupportedError
from tests.support.numpy_forward import forward
from tests.support.random_models import make_model

TOKENS = [0, 17, 230, 411, 5, 99]


def test_the_last_layers_lens_is_the_models_prediction(llama_dir: Path):
    reference = forward(llama_dir, TOKENS)
    lens = LogitLens.from_folder(llama_dir)
    logits = lens.logits(reference["resid_post", 3])
    assert logits.shape == (1, len(TOKENS), 512)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference["logits", None], rtol=0, atol=2e-5)
    predictions = lens.predictions(reference["resid_post", 3])
    np.testing.assert_array_equal(predictions.token_ids, reference["logits", None].argmax(-1))


def test_probabilities_sum_to_one_and_belong_to_the_token(llama_dir: Path):
    lens = LogitLens.from_folder(llama_dir)
    residual = forward(llama_dir, TOKENS)["resid_post", 1].astype(ml_dtypes.bfloat16)
    probabilities = np.exp(lens.log_probabilities(residual))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    predictions = lens.predictions(residual)
    np.testing.assert_allclose(predictions.probabilities, probabilities.max(-1), rtol=1e-6)


def test_layers_can_be_stacked(llama_dir: Path):
    reference = forward(llama_dir, TOKENS)
    lens = LogitLens.from_folder(llama_dir)
    stacked = np.stack([reference["resid_post", layer] for layer in range(4)])
    predictions = lens.predictions(stacked)
    assert predictions.token_ids.shape == predictions.probabilities.shape == (4, 1, len(TOKENS))


def test_a_tied_head_and_several_files_and_bfloat16(llama_dir: Path, tmp_path: Path):
    tensors = load_file(llama_dir / "model.safetensors")
    del tensors["lm_head.weight"]
    config = json.loads((llama_dir / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    embedding = tensors.pop("model.embed_tokens.weight")
    save_file({"model.embed_tokens.weight": embedding.astype(ml_dtypes.bfloat16)}, tmp_path / "model-2.safetensors")
    save_file(tensors, tmp_path / "model-1.safetensors")
    lens = LogitLens.from_folder(tmp_path)
    np.testing.assert_array_equal(lens.unembedding, embedding.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert lens.epsilon == 1e-5


def test_other_outputs_are_refused_and_not_guessed(gpt2_dir: Path, llama_dir: Path, tmp_path: Path):
    with pytest.raises(ModelUnsupportedError, match="gpt2"):
        LogitLens.from_folder(gpt2_dir)
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        LogitLens.from_folder(tmp_path)
    config = json.loads((llama_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": {"bits": 4}}))
    with pytest.raises(ModelUnsupportedError, match="quantised"):
        LogitLens.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match=r"model\.norm\.weight"):
        LogitLens.from_folder(tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_families_that_it_claims(family: str, tmp_path: Path):
    folder = make_model(family, tmp_path / family)
    reference = forward(folder, TOKENS)
    last = max(layer for name, layer in reference if name == "resid_post" and layer is not None)
    logits = LogitLens.from_folder(folder).logits(reference["resid_post", last])
    np.testing.assert_allclose(logits, reference["logits", None], rtol=0, atol=2e-5)
