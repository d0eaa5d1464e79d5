"""Model folders that mlx-lm, Hugging Face, TransformerLens and nnsight read alike: the same files for all of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.bench.models import model_folder
from tests.support.byte_bpe import SPECIAL_TOKENS
from tests.support.random_models import FAMILIES, make_model

MODELS = ("gpt2", "llama")
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@contextmanager
def shared_folder(name: str) -> Generator[Path]:
    """A random model of 124 million parameters; it is there until the end of the block."""
    with model_folder(name) as folder:
        yield as_published(folder)


@contextmanager
def talking_folder() -> Generator[Path]:
    """A random llama of 12 layers and width 768 with 512 tokens, which says those alone that have a text, in ASCII."""
    shape: dict[str, Any] = {**(FAMILIES["llama"].large or {}), "vocab_size": 512, "tie_word_embeddings": False}
    with TemporaryDirectory(prefix="neuroscope-bench-") as root:
        folder = make_model("llama", Path(root) / "llama-85m", **shape)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        silent = [
            token for token in range(512) if not tokenizer.decode([token]).isascii() or token < len(SPECIAL_TOKENS)
        ]
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"][silent] = 0  # a logit of 0 among hundreds of normal ones is never the largest
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        yield folder


def small_folder(name: str, folder: Path) -> Path:
    """The random model of four layers that the tests have, written into a folder."""
    return as_published(make_model(name, folder))


def as_published(folder: Path) -> Path:
    """Gives a gpt2 in mlx-lm's form the form that OpenAI published, which mlx-lm reads too.

    Names without prefix, and matrices input first. Other families are the same in both.
    """
    file = folder / "model.safetensors"
    weights = load_file(file)
    if "model.wte.weight" in weights:
        published = {
            name.removeprefix("model."): np.ascontiguousarray(array.T) if name.endswith(_TRANSPOSED) else array
            for name, array in weights.items()
        }
        save_file(published, file, metadata={"format": "pt"})
    return folder
