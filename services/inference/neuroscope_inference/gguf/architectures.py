"""Which number of a GGUF file is which entry of config.json, and which tensor which weight of mlx-lm's model.

Sources: the names in llama.cpp's `gguf-py/gguf/constants.py`, and its `convert_hf_to_gguf.py` for what it changes:
rows of llama's queries and keys are reordered for interleaved rotary embedding, and gemma's norms have 1 added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelCorruptError, ModelUnsupportedError
from neuroscope_inference.gguf.file import GgufFile

ARCHITECTURE = "general.architecture"
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_ROPE_FREQS = "rope_freqs.weight"
_LONG_FACTORS = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture of llama.cpp that mlx-lm has."""

    model_type: str
    """mlx-lm's name."""
    modules: Mapping[str, str]
    """Modules of a block, by the names of GGUF."""
    permutes: bool = False
    """Rows of queries and keys are reordered."""
    shifts_norms: bool = False
    """1 is added to the weights of norms."""
    dtype: str = "float16"
    """Of everything that is not quantised; activations of gemma exceed float16."""


ARCHITECTURES = {
    "llama": Architecture("llama", _BLOCK, permutes=True),
    "qwen2": Architecture("qwen2", _BLOCK),
    "qwen3": Architecture("qwen3", _BLOCK | _QK_NORMS),
    "gemma2": Architecture("gemma2", _BLOCK | _SANDWICH, shifts_norms=True, dtype="bfloat16"),
    "gemma3": Architecture("gemma3_text", _BLOCK | _SANDWICH | _QK_NORMS, shifts_norms=True, dtype="bfloat16"),
    "phi3": Architecture("phi3", _BLOCK | _FUSED),
}
"""By the value of general.architecture."""


class ModelReader:
    """A model as a GGUF file describes it.

    Args:
        file: the file.
        dtype: of all that is not quantised; empty: the architecture's.

    Attributes:
        architecture: what it is.
        dtype: of all that is not quantised.
        config: config.json, without quantisation.

    Raises:
        ModelUnsupportedError: the architecture, or a number of it, is not one that mlx-lm computes; names the key.
        ModelCorruptError: a key or a tensor is missing; names it.
    """

    def __init__(self, file: GgufFile, dtype: str = "") -> None:
        self._file = file
        name = file.metadata.get(ARCHITECTURE)
        if name not in ARCHITECTURES:
            raise ModelUnsupportedError(
                f"{file.path} has the architecture {name!r} ({ARCHITECTURE}), which is not read; architectures that "
                f"are: {', '.join(ARCHITECTURES)}",
                field="model_path",
            )
        self._name = str(name)
        self.architecture = ARCHITECTURES[self._name]
        self.dtype = dtype or self.architecture.dtype
        self.config = self._config()

    def weight_name(self, tensor: str) -> str:
        """The name of a tensor in mlx-lm's model, such as model.layers.0.mlp.up_proj.weight; empty: it is none of it.

        Raises:
            ModelUnsupportedError: the model has no such tensor.
        """
        if tensor == _ROPE_FREQS or tensor in _LONG_FACTORS:
            return ""
        if (match := _TENSOR.fullmatch(tensor)) is not None:
            layer, module, kind = match[1], match[2], match[3]
            known = self.architecture.modules.get(module) if layer else _TOP.get(module)
            if known and not layer:
                return f"{known}.{kind}"
            if known and int(layer) < self.config["num_hidden_layers"]:
                return f"model.layers.{layer}.{known}.{kind}"
        raise ModelUnsupportedError(
            f"{self._file.path}: mlx-lm's {self.architecture.model_type} has no tensor {tensor!r}", field="model_path"
        )

    def row_order(self, tensor: str) -> NDArray[np.intp] | None:
        """The order of a tensor's rows in mlx-lm's model; None: they are in it.

        llama.cpp interleaves the halves of each head: its rows (head, pair, half) are (head, half, pair) here.
        """
        match = _TENSOR.fullmatch(tensor)
        if not self.architecture.permutes or match is None or match[2] not in ("attn_q", "attn_k"):
            return None
        heads = self.config["num_attention_heads" if match[2] == "attn_q" else "num_key_value_heads"]
        rows = self._file.tensors[tensor].shape[-2 if match[3] == "weight" else -1]
        if rows % (2 * heads):
            raise ModelCorruptError(
                f"{self._file.path}: {tensor} has {rows} rows, which {heads} heads do not share", field="model_path"
            )
        return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)

    def has_shifted_norm(self, tensor: str) -> bool:
        """Whether 1 was added to it."""
        return self.architecture.shifts_norms and "norm" in tensor

    def _config(self) -> dict[str, Any]:
        key = self._number
        heads, width = int(key("attention.head_count")), int(key("embedding_length"))
        layers = int(key("block_count"))
        config: dict[str, Any] = {
            "model_type": self.architecture.model_type,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "intermediate_size": int(key("feed_forward_length")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(key("attention.head_count_kv", heads)),
            "head_dim": int(key("attention.key_length", width // heads)),
            "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
            "vocab_size": self._vocab_size(),
            "rope_theta": key("rope.freq_base", 10_000.0),
            "max_position_embeddings": int(key("context_length")),
            "tie_word_embeddings": "output.weight" not in self._file.tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._file.tensors,
            "torch_dtype": self.dtype,
        }
        if key("attention.value_length", config["head_dim"]) != config["head_dim"]:
            raise self._unsupported("attention.value_length")
        if window := int(key("attention.sliding_window", 0)):
            config["sliding_window"] = window
        match self._name:
            case "gemma2" | "gemma3":
                # llama.cpp scales queries by the width of a head, but those of the 27 B models by hidden_size / heads.
                is_largest = layers == {"gemma2": 46, "gemma3": 62}[self._name]
                config["query_pre_attn_scalar"] = width // heads if is_largest else config["head_dim"]
                if self._name == "gemma2":
                    config["attn_logit_softcapping"] = key("attn_logit_softcapping", 50.0)
                    config["final_logit_softcapping"] = key("final_logit_softcapping", 30.0)
                else:
                    pattern = int(key("attention.sliding_window_pattern", 6))
                    config |= {"sliding_window_pattern": pattern, "rope_local_base_freq": 10_000.0}
            case "phi3":
                config["partial_rotary_factor"] = key("rope.dimension_count", config["head_dim"]) / config["head_dim"]
            case _:
                if int(key("rope.dimension_count", config["head_dim"])) != config["head_dim"]:
                    raise self._unsupported("rope.dimension_count")
        if scaling := self._rope_scaling(config):
            config["rope_scaling"] = scaling
        return config

    def _rope_scaling(self, config: dict[str, Any]) -> dict[str, Any]:
        if _ROPE_FREQS in self._file.tensors:
            return self._llama3_scaling(config)
        factors = {name: self._floats(tensor) for tensor, name in _LONG_FACTORS.items() if tensor in self._file.tensors}
        if factors:
            config["original_max_position_embeddings"] = int(self._number("rope.scaling.original_context_length"))
            return {"type": "longrope", **factors}
        kind = self._file.metadata.get(f"{self._name}.rope.scaling.type", "none")
        if kind == "none":
            return {}
        if kind != "linear":
            raise self._unsupported("rope.scaling.type")
        return {"type": "linear", "rope_type": "linear", "factor": float(self._number("rope.scaling.factor"))}

    def _llama3_scaling(self, config: dict[str, Any]) -> dict[str, Any]:
        """Llama 3.1's scaling, of which the file has only the factor of each frequency."""
        written = np.array(self._floats(_ROPE_FREQS))
        scaling: dict[str, Any] = {"rope_type": "llama3", "type": "llama3", "factor": float(written.max()), **_LLAMA3}
        width, original = config["head_dim"], scaling["original_max_position_embeddings"]
        waves = 2 * math.pi * config["rope_theta"] ** (np.arange(0, width, 2) / width)
        smooth = (original / waves - scaling["low_freq_factor"]) / (
            scaling["high_freq_factor"] - scaling["low_freq_factor"]
        )
        share = np.clip(smooth, 0, 1)
        expected = 1 / ((1 - share) / scaling["factor"] + share)
        if written.shape != expected.shape or not np.allclose(written, expected, rtol=1e-3):
            raise ModelUnsupportedError(
                f"{self._file.path}: {_ROPE_FREQS} is not the scaling of Llama 3.1, and no other is read",
                field="model_path",
            )
        return scaling

    def _floats(self, name: str) -> list[float]:
        tensor = self._file.tensors[name]
        return [float(value) for value in tensor.type.dequantise(self._file.blocks(tensor)).reshape(-1)]

    def _vocab_size(self) -> int:
        if (embedding := self._file.tensors.get("token_embd.weight")) is None:
            raise ModelCorruptError(f"{self._file.path} has no tensor 'token_embd.weight'", field="model_path")
        return embedding.shape[0]

    def _number(self, name: str, default: float | None = None) -> Any:
        key = f"{self._name}.{name}"
        value = self._file.metadata.get(key, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            what = f"has no {key}" if value is None else f"has {key} = {str(value)[:60]}, which is not a number"
            raise ModelCorruptError(f"{self._file.path} {what}", field="model_path")
        if value < 0 or (default is None and not value):
            raise ModelCorruptError(f"{self._file.path} has {key} = {value}", field="model_path")
        return value

    def _unsupported(self, name: str) -> ModelUnsupportedError:
        key = f"{self._name}.{name}"
        return ModelUnsupportedError(
            f"{self._file.path}: mlx-lm's {self.architecture.model_type} cannot compute {key} = "
            f"{self._file.metadata.get(key)!r}",
            field="model_path",
        )
