"""GGUF files of models and tokenizers, written with llama.cpp's own library.

Names of tensors come from its map from Hugging Face's, and what its converter changes is done as its source does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import MODEL_ARCH
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
    "gemma2": MODEL_ARCH.GEMMA2,
    "gemma3_text": MODEL_ARCH.GEMMA3,
    "phi3": MODEL_ARCH.PHI3,
}
QUANTISED = gguf.GGMLQuantizationType


def write_model(
    folder: Path, path: Path, kind: QUANTISED = QUANTISED.F32, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model of mlx-lm's format as a GGUF file.

    Args:
        folder: of the model, with a byte-level tokenizer.
        path: of the file.
        kind: type of matrices.
        metadata: keys to change; None takes a key away.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = _Writer(path, gguf.MODEL_ARCH_NAMES[architecture], metadata or {})
    writer.numbers(config)
    writer.byte_level(folder)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, array in load_file(folder / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        array = array.astype(np.float32)
        if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            # LlamaModel.permute of convert_hf_to_gguf.py
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        writer.tensor(known, array, kind if array.ndim == 2 else QUANTISED.F32)
    return writer.close()


class _Writer:
    def __init__(self, path: Path, architecture: str, changes: Mapping[str, Any]) -> None:
        self._path = path
        self._architecture = architecture
        self._changes = changes
        self._writer = gguf.GGUFWriter(path, changes.get("general.architecture", architecture))

    def numbers(self, config: Mapping[str, Any]) -> None:
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        for key, value in {
            "block_count": config["num_hidden_layers"],
            "embedding_length": config["hidden_size"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": width,
            "attention.value_length": width,
            "context_length": config["max_position_embeddings"],
        }.items():
            self.key(f"{self._architecture}.{key}", value, self._writer.add_uint32)
        floats = {
            "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
            "rope.freq_base": config.get("rope_theta", 1e4 if "gemma3" not in self._architecture else 1e6),
        }
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if name in config:
                floats[name] = config[name]
        for key, value in floats.items():
            self.key(f"{self._architecture}.{key}", value, self._writer.add_float32)
        if pattern := config.get("sliding_window_pattern"):
            key = f"{self._architecture}.attention.sliding_window_pattern"
            self.key(key, pattern, self._writer.add_uint32)
        if window := config.get("sliding_window"):
            self.key(f"{self._architecture}.attention.sliding_window", window, self._writer.add_uint32)

    def byte_level(self, folder: Path) -> None:
        written = json.loads((folder / "tokenizer.json").read_text())
        rule = "smollm" if "Digits" in json.dumps(written["pre_tokenizer"]) else "gpt-2"
        config = json.loads((folder / "tokenizer_config.json").read_text())
        vocabulary = dict(written["model"]["vocab"])
        added = {token["content"]: token for token in written["added_tokens"]}
        vocabulary |= {text: token["id"] for text, token in added.items()}
        tokens = sorted(vocabulary, key=lambda text: vocabulary[text])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in written["model"]["merges"]]
        types = [3 if text in added and added[text]["special"] else 4 if text in added else 1 for text in tokens]
        self.key("tokenizer.ggml.model", "gpt2", self._writer.add_string)
        self.key("tokenizer.ggml.pre", rule, self._writer.add_string)
        self.key("tokenizer.ggml.tokens", tokens, self._writer.add_array)
        self.key("tokenizer.ggml.token_type", types, self._writer.add_array)
        self.key("tokenizer.ggml.merges", merges, self._writer.add_array)
        for name, key in {"bos_token": "bos", "eos_token": "eos"}.items():
            if text := config.get(name):
                text = text if isinstance(text, str) else text["content"]
                self.key(f"tokenizer.ggml.{key}_token_id", vocabulary[text], self._writer.add_uint32)
        adds_bos = (written.get("post_processor") or {}).get("type") == "TemplateProcessing"
        self.key("tokenizer.ggml.add_bos_token", adds_bos, self._writer.add_bool)
        template = folder / "chat_template.jinja"
        text = template.read_text() if template.exists() else config.get("chat_template")
        if text:
            self.key("tokenizer.chat_template", text, self._writer.add_string)

    def sentence_piece(
        self,
        tokens: list[str],
        scores: list[float],
        types: list[int],
        special: Mapping[str, int],
        adds_space: bool,
    ) -> None:
        self.key("tokenizer.ggml.add_space_prefix", adds_space, self._writer.add_bool)
        self.key("tokenizer.ggml.model", "llama", self._writer.add_string)
        self.key("tokenizer.ggml.tokens", tokens, self._writer.add_array)
        self.key("tokenizer.ggml.scores", scores, self._writer.add_array)
        self.key("tokenizer.ggml.token_type", types, self._writer.add_array)
        for name, index in special.items():
            self.key(f"tokenizer.ggml.{name}_token_id", index, self._writer.add_uint32)

    def key(self, key: str, value: Any, add: Any) -> None:
        value = self._changes.get(key, value)
        if value is None:
            return
        if isinstance(value, str) and add != self._writer.add_string:
            add = self._writer.add_string
        add(key, value)

    def tensor(self, name: str, array: np.ndarray, kind: QUANTISED) -> None:
        content = array if kind is QUANTISED.F32 else gguf.quants.quantize(array, kind)
        self._writer.add_tensor(name, content, raw_dtype=None if kind is QUANTISED.F32 else kind)

    def close(self) -> Path:
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()
        return self._path


def write_sentence_piece(path: Path, *arguments: Any) -> Path:
    """A file with a SentencePiece tokenizer and nothing else."""
    writer = _Writer(path, "llama", {})
    writer.sentence_piece(*arguments)
    return writer.close()
