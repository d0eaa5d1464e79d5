"""A tiny configuration for every model module of mlx-lm: two layers, width 64, a vocabulary of 64.

Fields of a module's `ModelArgs` get a value by their name; what a name does not tell stands in `SPECIAL`, by module.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx_lm.models

LAYERS, WIDTH, HEADS, VOCABULARY = 2, 64, 4, 64

BY_NAME: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "n_layers": LAYERS,
    "n_layer": LAYERS,
    "num_transformer_layers": LAYERS,
    "hidden_size": WIDTH,
    "hidden_dim": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "model_dim": WIDTH,
    "intermediate_size": 96,
    "ffn_hidden_size": 96,
    "intermediate_size_mlp": 96,
    "dense_intermediate_size": 96,
    "moe_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "shared_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "num_attention_heads": HEADS,
    "num_heads": HEADS,
    "n_heads": HEADS,
    "n_head": HEADS,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "n_kv_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "block_size": 128,
    "model_max_length": 128,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_conv_bias": True,
    "qk_norm": True,
    "use_qk_norm": True,
    "post_norm": False,
    "norm_topk_prob": True,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "sliding_window_pattern": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "num_shared_experts": 1,
    "num_shared_expert": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "first_k_dense_replace": 0,
    "num_dense_layers": 0,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "routed_scaling_factor": 1.0,
    "scoring_func": "sigmoid",
    "score_func": "sigmoid",
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 4,
    "state_size": 16,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "time_step_rank": 4,
    "time_step_limit": (0.001, 100.0),
    "group_norm_size": 1,
    "layer_group_size": 2,
    "logit_scale": 1.0,
    "dim_model_base": WIDTH,
    "scale_depth": 1.4,
    "scale_emb": 1.0,
    "logits_scaling": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 0.5,
    "hidden_act": "silu",
    "num_nextn_predict_layers": 0,
}

_MIXED = ["sliding_attention", "full_attention"]
_YARN = {"rope_type": "yarn", "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}

REQUIRED_BY_NAME: dict[str, Any] = {  # for fields without a default only
    "layer_types": _MIXED,
    "rope_scaling": None,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "topk_method": "noaux_tc",
    "conv_bias": False,
    "conv_L_cache": 3,
    "use_expert_bias": True,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "zero_expert_num": 2,
    "zero_expert_type": "identity",
    "attention_method": "MLA",
}


@dataclasses.dataclass(frozen=True)
class Nested:
    """A nested configuration: that of a module, or of a class in it."""

    module: str
    arguments: str = "ModelArgs"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


_GEMMA3N = {
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": VOCABULARY,
    "rope_local_base_freq": 10000.0,
    "final_logit_softcapping": 30.0,
    "activation_sparsity_pattern": [0.5, 0.0],
    "hidden_size_per_layer_input": 32,
    "altup_num_inputs": 2,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 8,
}
_GEMMA4 = {
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "global_head_dim": 16,
}
_ROPE_BY_TYPE = {name: {"rope_theta": 10000.0, "rope_type": "default"} for name in _MIXED}
_LINEAR = {"num_heads": HEADS, "head_dim": 16, "kda_layers": [1], "full_attn_layers": [2], "short_conv_kernel_size": 4}
_KIMI_LINEAR = {"linear_attn_config": _LINEAR, "use_grouped_topk": False}
_LFM2 = {
    "layer_types": ["conv", "full_attention"],
    "block_dim": WIDTH,
    "block_multiple_of": 16,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
_MISTRAL_ROPE = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"} | {
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 128,
}
_GATED_DELTA = {
    "linear_num_value_heads": HEADS,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}

SPECIAL: dict[str, dict[str, Any]] = {  # a value of ... leaves the field out
    "afm7": {"num_kv_reuse_layers": 1, "num_layers": 3},
    "baichuan_m1": {"sliding_window_layers": [0], "conv_window": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": _YARN, "topk_method": "greedy"},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True]},
    "gemma3": {"text_config": Nested("gemma3_text")},
    "gemma3n": {"text_config": Nested("gemma3n", "TextConfig", _GEMMA3N)},
    "gemma4": {"text_config": Nested("gemma4_text", changes=_GEMMA4)},
    "gemma4_text": _GEMMA4,
    "gpt2": {"num_key_value_heads": ...},
    "gpt_bigcode": {"n_inner": 96, "num_key_value_heads": ..., "multi_query": True},
    "gpt_neox": {"num_key_value_heads": ...},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": HEADS,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": False,
    },
    "hunyuan": {
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
    },
    "kimi_k25": {"text_config": Nested("kimi_k25", "TextConfig")},
    "kimi_k3": {"text_config": Nested("kimi_k3", "TextArgs", _KIMI_LINEAR | {"hidden_act": "situ"})},
    "kimi_linear": _KIMI_LINEAR,
    "kimi_vl": {"text_config": Nested("kimi_vl", "TextArgs")},
    "lfm2": _LFM2,
    "lfm2-vl": {"text_config": Nested("lfm2", changes=_LFM2)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4": {
        "text_config": Nested(
            "llama4",
            "TextArgs",
            {
                "attention_chunk_size": 16,
                "interleave_moe_layer_step": 2,
                "num_experts_per_tok": 1,
                "num_hidden_layers": 4,
            },
        )
    },
    "llama4_text": {"no_rope_layers": [1, 0]},
    "mellum": {"rope_parameters": _ROPE_BY_TYPE},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1],
        "moe_layer_freq": [0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "minicpm3": {
        "rope_scaling": {"original_max_position_embeddings": 64, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    },
    "minimax_m3_vl": {"text_config": Nested("minimax_m3_vl", "TextArgs", {"moe_layer_freq": [0, 1]})},
    "ministral3": {"rope_parameters": _MISTRAL_ROPE},
    "mistral3": {"text_config": Nested("llama")},
    "mistral4": {"rope_parameters": _MISTRAL_ROPE},
    "muse_spark": {
        "text_config": Nested(
            "muse_spark",
            "TextArgs",
            {
                "post_norm_eps": 1e-5,
                "layer_rope_theta": [10000.0, 0.0],
                "final_logit_softcapping": 30.0,
                "output_multiplier": 1.0,
                "moe_hidden_size": 32,
                "num_shared_experts": 0,
            },
        )
    },
    "nemotron-nas": {
        "block_configs": [
            {
                "attention": {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False},
                "ffn": {"ffn_mult": 1.5, "no_op": False, "replace_with_linear": False},
            }
        ]
        * LAYERS
    },
    "nemotron_h": {"hybrid_override_pattern": ["*", "M", "-"], "num_hidden_layers": 3},
    "olmo3": {"layer_types": _MIXED},
    "olmo_hybrid": _GATED_DELTA
    | {"layer_types": ["linear_attention", "full_attention"], "linear_allow_neg_eigval": True},
    "openelm": {
        "ffn_dim_divisor": 16,
        "num_query_heads": [HEADS] * LAYERS,
        "num_kv_heads": [2] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
    },
    "phi3small": {
        "vocab_size": 100352,
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 96,
        "gegelu_limit": 20.0,
    },
    "pixtral": {"text_config": Nested("llama")},
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 16},
    "qwen2_vl": {"text_config": Nested("qwen2")},
    "qwen3_5": {"text_config": Nested("qwen3_5", "TextModelArgs", _GATED_DELTA)},
    "qwen3_5_moe": {"text_config": Nested("qwen3_5", "TextModelArgs", _GATED_DELTA)},
    "qwen3_next": _GATED_DELTA,
    "qwen3_vl": {"text_config": Nested("qwen3")},
    "qwen3_vl_moe": {"text_config": Nested("qwen3_moe")},
    "recurrent_gemma": {
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv7": {"a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
    "spark2_5": {"rope_parameters": _ROPE_BY_TYPE, "hidden_act": "gelu"},
    "stablelm": {"use_qkv_bias": False},
    "step3p5": {"num_attention_groups": 2},
}


def modules() -> list[str]:
    """Names of mlx-lm's modules that hold a model."""
    folder = Path(mlx_lm.models.__path__[0])
    return sorted(file.stem for file in folder.glob("*.py") if "\nclass Model(" in file.read_text())


def tiny_config(module: str) -> dict[str, Any]:
    """config.json of a tiny model of the module."""
    return {"model_type": module} | _config(module, "ModelArgs", SPECIAL.get(module, {}))


def _config(module: str, arguments: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for field in dataclasses.fields(getattr(importlib.import_module(f"mlx_lm.models.{module}"), arguments)):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name in BY_NAME:
            config[field.name] = BY_NAME[field.name]
        elif is_required and field.name in REQUIRED_BY_NAME:
            config[field.name] = REQUIRED_BY_NAME[field.name]
        elif is_required and field.name == "model_type":
            config[field.name] = module
    for name, value in changes.items():
        is_nested = isinstance(value, Nested)
        config[name] = _config(value.module, value.arguments, value.changes) if is_nested else value
    return {name: value for name, value in config.items() if value is not ...}
