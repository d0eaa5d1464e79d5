"""Every family of the table loads in mlx-lm and behaves like a model worth testing with.

pytest tests/unit/test_random_models.py
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.byte_bpe import BOS_ID, EOS_ID
from tests.support.numpy_forward import forward
from tests.support.plain_mlx import load_plain, plain_logits
from tests.support.random_models import FAMILIES, make_large, make_model

TOKEN_IDS = np.random.default_rng(3).integers(5, 512, size=40).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_family_loads_and_its_logits_are_not_degenerate(family: str, tmp_path: Path) -> None:
    model, tokenizer = load_plain(make_model(family, tmp_path))
    logits = np.array(plain_logits(model, TOKEN_IDS))[0].astype(np.float64)  # (T, vocab)
    assert np.isfinite(logits).all()
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities + 1e-300)).sum(axis=-1).mean()
    assert 1.0 < entropy < 5.0  # uniform would be ln 512 = 6.2
    assert np.mean(logits.argmax(axis=-1) == TOKEN_IDS) < 0.25  # does not merely repeat its input
    assert tokenizer.vocab_size == logits.shape[-1]
    assert tokenizer.eos_token_id == EOS_ID
    assert tokenizer.eos_token_ids == {EOS_ID}


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_round_trips_and_adds_bos_where_the_family_does(family: str, tmp_path: Path) -> None:
    _, tokenizer = load_plain(make_model(family, tmp_path))
    text = "When Alice and Bob went to the store, 日本 – naïve\n\t12 + 7 ="
    ids = tokenizer.encode(text)
    assert (ids[0] == BOS_ID) == FAMILIES[family].prepends_bos
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode(" Alice", add_special_tokens=False)) == 1


def test_chat_template(llama_dir: Path) -> None:
    _, tokenizer = load_plain(llama_dir)
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>Hello<|eos|><|assistant|>"


def test_attention_is_neither_uniform_nor_one_hot(llama_dir: Path, gpt2_dir: Path) -> None:
    for folder in (llama_dir, gpt2_dir):
        seen = forward(folder, TOKEN_IDS)
        for layer in range(4):
            largest = seen["attention_pattern", layer][:, :, 20:].max(axis=-1).mean()
            assert 0.2 < largest < 0.8  # uniform would be 0.03


def test_norms_and_biases_are_not_trivial(gpt2_dir: Path) -> None:
    for name, tensor in load_file(gpt2_dir / "model.safetensors").items():
        assert tensor.dtype == np.float32
        assert tensor.std() > 0.01, name


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, second, other = (make_model("llama", tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6)))
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_tied_model_has_no_head(tmp_path: Path) -> None:
    tied = load_file(make_model("llama", tmp_path / "tied", tie_word_embeddings=True) / "model.safetensors")
    untied = load_file(make_model("llama", tmp_path / "untied") / "model.safetensors")
    assert untied.keys() - tied.keys() == {"lm_head.weight"}
    assert all(np.array_equal(tied[name], untied[name]) for name in tied)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="unknown family 'lama', known: llama"):
        make_model("lama", tmp_path)
    with pytest.raises(KeyError, match="unknown family"):
        make_large("lama", tmp_path)
    with pytest.raises(ValueError, match="at least 261"):
        make_model("llama", tmp_path, vocab_size=200)
    with pytest.raises(ValueError, match="no large shape"):
        make_large("mixtral", tmp_path)
