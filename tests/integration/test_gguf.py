"""GGUF files are loaded as models: the same logits and tokens, and clear errors for what is damaged or not read.

python -m pytest tests/integration/test_gguf.py
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from neuroscope import Client
from neuroscope.errors import (
    MLXIntegrationError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    PermissionDeniedError,
)
from neuroscope.named_models.catalogue import CATALOGUE
from neuroscope_inference.gguf.conversion import NOTES, conversion_notes, convert, gguf_file
from neuroscope_inference.gguf.file import GgufFile
from neuroscope_inference.gguf.tokenizer import GgufTokenizer
from tests.support.compare import relative_error
from tests.support.gguf_files import ARCHITECTURES, QUANTISED, write_model, write_sentence_piece
from tests.support.random_models import make_model

PROMPT = "Mary gave the silver key to"
TEXTS = [PROMPT, "The capital of France is Paris.", "  two\n\nlines\t1234", "naïve Σ 你好 🙂", "it's <|user|>we'll"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROSCOPE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_architecture_has_the_logits_of_the_original(family: str, tmp_path: Path):
    folder = make_model(family, tmp_path / family)
    path = write_model(folder, tmp_path / "model.gguf")
    with Client.local(folder, path) as client:
        original, read = (client.capture(PROMPT, ["logits"], model_id=each)["logits"] for each in (family, "model"))
        ids = [client.tokenize(PROMPT, model_id=each).ids for each in (family, "model")]
    assert ids[0] == ids[1]
    assert relative_error(read, original) <= 1e-5


@pytest.mark.parametrize("kind", [QUANTISED.Q4_0, QUANTISED.Q4_1, QUANTISED.Q8_0, QUANTISED.Q5_1, QUANTISED.BF16])
def test_weights_stay_quantised_where_mlx_has_the_form(kind: Any, llama_dir: Path, tmp_path: Path):
    folder = convert(write_model(llama_dir, tmp_path / "model.gguf", kind), dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    assert ("quantization" in config) == (kind is not QUANTISED.BF16)
    assert any(kind.name in note for note in conversion_notes(folder))
    with Client.local(llama_dir) as client:
        client.load_model(folder, dequantize=False)
        models = {model.model_id: model for model in client.models()}
        original, read = (
            client.capture(PROMPT, ["logits"], model_id=each)["logits"] for each in ("llama", folder.name)
        )
        info = client.model(folder.name)
    assert info.self_test.logits_identical
    if kind is not QUANTISED.BF16:
        assert models[folder.name].weights_bytes < models["llama"].weights_bytes / 2
    assert relative_error(read, original) < (0.05 if kind in (QUANTISED.Q8_0, QUANTISED.BF16) else 0.75)


def test_the_second_load_reads_what_the_first_one_wrote(llama_dir: Path, tmp_path: Path, cache: Path):
    path = write_model(llama_dir, tmp_path / "model.gguf")
    first = convert(path)
    written = (first / NOTES).stat().st_mtime_ns
    assert convert(path) == first
    assert (first / NOTES).stat().st_mtime_ns == written
    assert [each.name for each in cache.iterdir()] == [first.name]


def test_chat_template_and_special_tokens_come_from_the_file(llama_dir: Path, tmp_path: Path):
    path = write_model(llama_dir, tmp_path / "model.gguf")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    with Client.local(llama_dir, path) as client:
        original, read = client.models()
        texts = [client.generate(chat, model_id=each.model_id, max_tokens=12).wait().text for each in (original, read)]
    assert texts[0] == texts[1] != ""
    assert (original.bos_token_id, list(original.eos_token_ids)) == (read.bos_token_id, list(read.eos_token_ids))
    assert original.has_chat_template
    assert read.has_chat_template


def test_byte_level_tokens_are_those_of_the_original(llama_dir: Path, tmp_path: Path):
    original = Tokenizer.from_file(str(llama_dir / "tokenizer.json"))
    with GgufFile(write_model(llama_dir, tmp_path / "model.gguf")) as file:
        read = GgufTokenizer(file).tokenizer
    for text in TEXTS:
        assert read.encode(text).ids == original.encode(text).ids
        assert read.decode(original.encode(text).ids) == original.decode(original.encode(text).ids)


@pytest.mark.parametrize("adds_space", [True, False])
def test_sentence_pieces_are_those_of_the_original(tmp_path: Path, adds_space: bool):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 40 + ["the cat sat on the mat", "a lamp and a letter in the library"] * 30))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "sp"), vocab_size=420, model_type="bpe", byte_fallback=True,
        add_dummy_prefix=adds_space, remove_extra_whitespaces=False, normalization_rule_name="identity",
        minloglevel=2,
    )  # fmt: skip
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    count = original.get_piece_size()
    types = [
        2 if original.is_unknown(i) else 3 if original.is_control(i) else 6 if original.is_byte(i) else 1
        for i in range(count)
    ]
    tokens = [original.id_to_piece(index) for index in range(count)]
    scores = [original.get_score(index) for index in range(count)]
    path = write_sentence_piece(
        tmp_path / "sp.gguf", tokens, scores, types, {"bos": 1, "eos": 2, "unknown": 0}, adds_space
    )
    with GgufFile(path) as file:
        read = GgufTokenizer(file).tokenizer
    for text in ["the cat sat", PROMPT, "naïve 你好 🙂", "a  lamp", "The capital of France is Paris."]:
        assert read.encode(text).ids == [1, *original.encode(text)]
        assert read.decode(original.encode(text)) == original.decode(original.encode(text))


def test_a_folder_with_one_file_is_that_file(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert gguf_file(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.GGUF").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"has 2 GGUF files, name one: a\.gguf, b\.GGUF"):
        gguf_file(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(tmp_path) is None
    assert gguf_file(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("metadata", "kind", "message"),
    [
        ({"general.architecture": "rwkv7"}, ModelUnsupportedError, "'rwkv7' .general.architecture., which is not read"),
        ({"llama.block_count": None}, ModelCorruptError, r"has no llama\.block_count"),
        ({"llama.block_count": "four"}, ModelCorruptError, r"llama\.block_count = four, which is not a number"),
        ({"llama.block_count": 2}, ModelUnsupportedError, r"has no tensor 'blk\.2\."),
        ({"llama.attention.value_length": 8}, ModelUnsupportedError, r"cannot compute llama\.attention\.value_length"),
        ({"tokenizer.ggml.model": None}, ModelUnsupportedError, r"tokenizer\.ggml\.model is missing"),
        ({"tokenizer.ggml.model": "t5"}, ModelUnsupportedError, r"tokenizer\.ggml\.model is 't5'"),
        ({"tokenizer.ggml.pre": "viking"}, ModelUnsupportedError, r"tokenizer\.ggml\.pre is 'viking'.*llama-bpe"),
        ({"tokenizer.ggml.tokens": None}, ModelCorruptError, r"has no tokenizer\.ggml\.tokens"),
        ({"tokenizer.ggml.eos_token_id": 99_999}, ModelCorruptError, r"tokenizer\.ggml\.eos_token_id is 99999"),
    ],
    ids=lambda value: "" if not isinstance(value, dict) else next(iter(value)),
)
def test_what_is_not_read_is_refused_by_its_key(
    llama_dir: Path,
    tmp_path: Path,
    cache: Path,
    metadata: dict[str, Any],
    kind: type[MLXIntegrationError],
    message: str,
):
    path = write_model(llama_dir, tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(kind, match=message) as caught:
        convert(path)
    assert caught.value.field == "model_path"
    assert not cache.exists() or not list(cache.iterdir())


def test_a_file_cut_at_any_tensor_names_what_is_missing(llama_dir: Path, tmp_path: Path):
    path = write_model(llama_dir, tmp_path / "model.gguf")
    content = path.read_bytes()
    with GgufFile(path) as file:
        tensors = list(file.tensors.values())
    cut = tmp_path / "cut.gguf"
    for tensor in tensors:
        cut.write_bytes(content[: tensor.offset_bytes + tensor.length_bytes // 2])
        with pytest.raises(ModelCorruptError, match=r"it is cut off: \d+ bytes of the tensor '"):
            GgufFile(cut)
    header = min(tensor.offset_bytes for tensor in tensors)
    for length in [0, 3, 11, 23, *range(24, header, 997)]:
        cut.write_bytes(content[:length])
        with pytest.raises(ModelCorruptError):
            GgufFile(cut)


def test_a_wrong_type_and_an_absurd_shape_name_the_tensor(llama_dir: Path, tmp_path: Path):
    path = write_model(llama_dir, tmp_path / "model.gguf")
    content = bytearray(path.read_bytes())
    name = b"blk.0.ffn_up.weight"
    place = content.index(name) + len(name)
    dimensions = int.from_bytes(content[place : place + 4], "little")
    spoilt = tmp_path / "spoilt.gguf"

    def written(offset: int, value: int, length: int) -> Path:
        changed = bytearray(content)
        changed[place + offset : place + offset + length] = value.to_bytes(length, "little")
        spoilt.write_bytes(changed)
        return spoilt

    with pytest.raises(ModelUnsupportedError, match=r"'blk\.0\.ffn_up\.weight' has the type 77.*Q4_0"):
        GgufFile(written(4 + 8 * dimensions, 77, 4))
    with pytest.raises(ModelCorruptError, match=r"'blk\.0\.ffn_up\.weight' has the shape"):
        GgufFile(written(4, 2**62, 8))
    with pytest.raises(ModelCorruptError, match=r"'blk\.0\.ffn_up\.weight' has 9 axes"):
        GgufFile(written(0, 9, 4))


def test_a_named_model_is_loaded_by_its_name(llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = write_model(llama_dir, tmp_path / "model.gguf")
    named = replace(CATALOGUE["smollm2"], name="small", file_bytes=written.stat().st_size)
    monkeypatch.setitem(CATALOGUE, "small", named)
    with Client.local() as client:
        with pytest.raises(ModelNotFoundError, match=r"fetch it there with: neuroscope models get small"):
            client.load_model("small")
        named.path.parent.mkdir(parents=True)
        named.path.write_bytes(written.read_bytes())
        model = client.load_model("small")
        assert (model.model_id, model.model_path) == ("small", "small")
    with Client.local(model_dirs=[str(tmp_path / "elsewhere")]) as client, pytest.raises(PermissionDeniedError):
        client.load_model("small")
    with Client.local("small", model_dirs=[str(tmp_path / "elsewhere")]) as client:
        assert client.load_model("small").model_id == "small"


def test_a_service_loads_only_where_it_may(llama_dir: Path, tmp_path: Path):
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for folder in (allowed, outside):
        folder.mkdir()
        write_model(llama_dir, folder / "model.gguf")
    with Client.local(model_dirs=[str(allowed)]) as client:
        with pytest.raises(PermissionDeniedError):
            client.load_model(str(outside / "model.gguf"))
        assert client.load_model(str(allowed / "model.gguf")).model_id == "model"
        shutil.rmtree(outside)
