"""Random-initialised models in mlx-lm's own format: config.json, model.safetensors and tokenizer files in one folder.

A family is one entry of `FAMILIES`. Parameter names and shapes come from mlx-lm's model class, values from numpy with a
seed per tensor, so one tensor's values depend neither on the others nor on the version of mlx. Sizes differ from each
other on purpose (8 heads of 16, 2 key/value heads, 320 neurons, width 128): a swapped axis cannot go unnoticed. Widths
are multiples of 64, so the models can be quantised.
"""

import copy
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.support.byte_bpe import BOS_ID, EOS_ID, save_tokenizer


@dataclass(frozen=True)
class Family:
    """One architecture of mlx-lm."""

    config: Mapping[str, Any]
    """config.json of the small model, without model_type."""
    large: Mapping[str, Any] | None = None
    """What `make_large` changes, for a shape of about 124 million parameters."""
    prepends_bos: bool = False
    """Whether the tokenizer adds BOS by itself, as the family's tokenizers do."""
    norm_weight_mean: float = 1.0
    """0 where the norm multiplies by 1 + weight."""
    final_norm_gain: float = 1.0
    """Above 1 where small tied embeddings would make logits flat."""
    embedding_gain: float = 3.4
    """Standard deviation of an embedding times sqrt(width). Under a tied head it is that of the logits. Small where the
    model scales embeddings up, which would make each token predict itself."""


_VOCAB = {"vocab_size": 512, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}

_LLAMA = _VOCAB | {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 320,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

_GPT2 = _VOCAB | {
    "n_embd": 128,
    "n_layer": 4,
    "n_head": 8,
    "n_positions": 1024,
    "n_ctx": 1024,
    "layer_norm_epsilon": 1e-5,
}

_GEMMA = _LLAMA | {"head_dim": 32, "query_pre_attn_scalar": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
_GEMMA_INIT: Any = {"prepends_bos": True, "norm_weight_mean": 0.0, "final_norm_gain": 8.0, "embedding_gain": 0.34}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        _LLAMA,
        large={
            "vocab_size": 50257,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "intermediate_size": 2432,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
        prepends_bos=True,
    ),
    "gpt2": Family(_GPT2, large={"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}),
    "qwen2": Family(_LLAMA | {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen3": Family(_LLAMA | {"head_dim": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "gemma2": Family(
        _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        **_GEMMA_INIT,
    ),
    "gemma3_text": Family(  # the window is short, so that a prompt of 20 tokens leaves it
        _GEMMA | {"sliding_window": 16, "sliding_window_pattern": 2},
        **_GEMMA_INIT,
    ),
    "mixtral": Family(_LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}, prepends_bos=True),
    "qwen3_moe": Family(
        _LLAMA
        | {
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 192,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    ),
    "gpt_oss": Family(
        _VOCAB
        | {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "intermediate_size": 192,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "rms_norm_eps": 1e-5,
        }
    ),
    "phi3": Family(_LLAMA | {"original_max_position_embeddings": 4096, "pad_token_id": EOS_ID}),
    "olmo2": Family(_LLAMA),
    "cohere2": Family(
        _LLAMA
        | {
            "head_dim": 16,
            "layer_norm_eps": 1e-5,
            "logit_scale": 1.0,
            "sliding_window": 16,
            "sliding_window_pattern": 2,
        }
    ),
    "mistral": Family(_LLAMA, prepends_bos=True),
    "granitemoe": Family(
        _LLAMA
        | {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "attention_multiplier": 0.25,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 1.0,
            "attention_bias": False,
        }
    ),
    "llama4": Family(
        _VOCAB
        | {
            "text_config": _LLAMA
            | {
                "model_type": "llama4_text",
                "head_dim": 16,
                "intermediate_size_mlp": 320,
                "interleave_moe_layer_step": 2,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "attention_bias": False,
                "attention_chunk_size": 4096,
                "rope_scaling": None,
                "use_qk_norm": True,
            }
        },
        prepends_bos=True,
    ),
    "gpt_neox": Family(
        _VOCAB
        | {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "layer_norm_eps": 1e-5,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "max_position_embeddings": 1024,
            "use_parallel_residual": True,
        }
    ),
}

# Standard deviation of a matrix times sqrt(inputs). Queries and keys are large enough that attention is far from
# uniform (scores of about 2), heads and routers that their softmax has favourites without being one-hot.
_GAINS = {
    "q_proj": 1.5,
    "k_proj": 1.5,
    "qkv_proj": 1.5,
    "c_attn": 1.5,
    "query_key_value": 1.5,
    "o_proj": 1.5,
    "gate": 2.0,
    "router": 2.0,
    "lm_head": 2.5,
    "embed_out": 2.5,
}
_FINAL_NORMS = {"norm", "ln_f", "final_layer_norm"}
_EMBEDDINGS = {"embed_tokens", "embed_in", "wte", "wpe"}


def make_model(family: str, folder: Path, *, seed: int = 0, **config_overrides: Any) -> Path:
    """Write a small float32 model of `family` into `folder` (made if missing) and return the folder.

    Overrides replace entries of config.json, e.g. `tie_word_embeddings=True`, or sliding layers for llama:
    `layer_types=["full_attention", "sliding_attention"] * 2, sliding_window=8`.

    Raises:
        KeyError: no such family; the message lists the known ones.
    """
    entry = _entry(family)
    config: dict[str, Any] = {"model_type": family, "dtype": "float32", **entry.config, **config_overrides}
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder, vocab_size=config["vocab_size"], prepends_bos=entry.prepends_bos)
    weights = {name: _draw(name, shape, family=entry, seed=seed) for name, shape in _parameter_shapes(config).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def make_large(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Like `make_model`, in a shape of about 124 million parameters (500 MB); `gpt2` and `llama` have one.

    The tokenizer stays small: ids above its size have no text, as in models with a padded vocabulary.

    Raises:
        KeyError: no such family.
        ValueError: the family has no large shape.
    """
    large = _entry(family).large
    if large is None:
        raise ValueError(f"{family} has no large shape, these have: {[f for f, e in FAMILIES.items() if e.large]}")
    return make_model(family, folder, seed=seed, **large)


def _entry(family: str) -> Family:
    if family not in FAMILIES:
        raise KeyError(f"unknown family {family!r}, known: {', '.join(FAMILIES)}")
    return FAMILIES[family]


def _parameter_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters as mlx-lm's model class declares them; nothing is evaluated."""
    from mlx.utils import tree_flatten  # here, so that importing this module does not start mlx
    from mlx_lm.utils import MODEL_REMAPPING

    module = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    architecture = import_module(f"mlx_lm.models.{module}")
    model = architecture.Model(architecture.ModelArgs.from_dict(copy.deepcopy(config)))
    shapes = {name: tuple(array.shape) for name, array in dict(tree_flatten(model.parameters())).items()}
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)  # its absence is how gemma's mlx-lm class learns of the tie
    return shapes


def _draw(name: str, shape: tuple[int, ...], *, family: Family, seed: int) -> NDArray[np.float32]:
    """One parameter. Norm weights and biases are drawn too: a forward pass that forgets them must not agree."""
    normal = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    *_, module, kind = ("", *name.split("."))
    if module in _EMBEDDINGS:
        return normal * np.float32(family.embedding_gain / np.sqrt(shape[-1]))
    if kind == "weight" and len(shape) > 1:
        return normal * np.float32(_GAINS.get(module, 1.0) / np.sqrt(shape[-1]))
    if kind == "weight":
        mean = family.norm_weight_mean
        if module in {"q_norm", "k_norm"}:
            mean += 0.5  # normed queries and keys need it for peaked attention
        if module in _FINAL_NORMS:
            mean += family.final_norm_gain - 1.0
        return normal * np.float32(0.2) + np.float32(mean)
    return normal * np.float32(0.1)
