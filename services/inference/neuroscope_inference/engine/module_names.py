"""How architectures name the parts of a transformer: one table, an entry per family and one for the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """Attribute names of the parts, best first; a part without names does not exist in the family.

    The names are those of mlx-lm's modules; `norm_attn_norm.attn` is a part of a part.
    """

    embedding: tuple[str, ...]
    final_norm: tuple[str, ...]
    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    norm1: tuple[str, ...]
    norm2: tuple[str, ...]
    attention_output_norm: tuple[str, ...] = ()  # a sandwich norm between attention and the residual stream
    mlp_output_norm: tuple[str, ...] = ()
    query_projection: tuple[str, ...] = ()
    key_projection: tuple[str, ...] = ()
    value_projection: tuple[str, ...] = ()
    fused_projection: tuple[str, ...] = ()  # queries, keys and values in one, in an order of `projections`
    query_norm: tuple[str, ...] = ()  # between projection and rotary embedding
    key_norm: tuple[str, ...] = ()
    output_projection: tuple[str, ...] = ()
    up_projection: tuple[str, ...] = ()
    gate_projection: tuple[str, ...] = ()  # what its activation gates
    fused_up_projection: tuple[str, ...] = ()  # both in one; which half is the gate is for `weights.probe` to find
    down_projection: tuple[str, ...] = ()
    router: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    shared_expert: tuple[str, ...] = ()  # runs for every token, beside the chosen ones
    shared_expert_gate: tuple[str, ...] = ()  # its weight, before a sigmoid
    positions: tuple[str, ...] = ()  # embeddings of positions, learnt
    head: tuple[str, ...] = ("lm_head",)  # the unembedding; absent where it is tied to the embedding
    is_generic: bool = False


LLAMA = ModuleNames(
    embedding=("embed_tokens",),
    final_norm=("norm",),
    attention=("self_attn",),
    mlp=("mlp",),
    norm1=("input_layernorm",),
    norm2=("post_attention_layernorm",),
    query_projection=("q_proj",),
    key_projection=("k_proj",),
    value_projection=("v_proj",),
    output_projection=("o_proj",),
    up_projection=("up_proj",),
    gate_projection=("gate_proj",),
    down_projection=("down_proj",),
)

QWEN3 = replace(LLAMA, query_norm=("q_norm",), key_norm=("k_norm",))

MIXTRAL = replace(LLAMA, mlp=("block_sparse_moe",), down_projection=(), router=("gate",), experts=("switch_mlp",))

QWEN3_MOE = replace(QWEN3, router=("gate",), experts=("switch_mlp",))  # some layers may be dense

GPT_OSS = replace(LLAMA, down_projection=(), router=("router",), experts=("experts",))

LLAMA4 = replace(
    LLAMA, mlp=("feed_forward",), router=("router",), experts=("experts",), shared_expert=("shared_expert",)
)

GRANITE_MOE = replace(LLAMA, mlp=("block_sparse_moe",), down_projection=(), router=("router",), experts=("switch_mlp",))

PHI3 = replace(
    LLAMA,
    query_projection=(),
    key_projection=(),
    value_projection=(),
    fused_projection=("qkv_proj",),
    up_projection=(),
    gate_projection=(),
    fused_up_projection=("gate_up_proj",),
)

GEMMA2 = replace(  # attention of its own, for the softcap: see manual_attention
    LLAMA,
    norm2=("pre_feedforward_layernorm",),
    attention_output_norm=("post_attention_layernorm",),
    mlp_output_norm=("post_feedforward_layernorm",),
)

GEMMA3 = replace(GEMMA2, query_norm=("q_norm",), key_norm=("k_norm",))

OLMO2 = replace(GEMMA3, norm1=(), norm2=())  # norms stand behind attention and MLP only

COHERE2 = replace(LLAMA, norm2=())  # parallel: attention and MLP read one norm

GPT2 = ModuleNames(
    embedding=("wte",),
    final_norm=("ln_f",),
    attention=("attn",),
    mlp=("mlp",),
    norm1=("ln_1",),
    norm2=("ln_2",),
    fused_projection=("c_attn",),
    output_projection=("c_proj",),
    up_projection=("c_fc",),
    down_projection=("c_proj",),
    positions=("wpe",),
)

GPT_NEOX = ModuleNames(
    embedding=("embed_in",),
    final_norm=("final_layer_norm",),
    attention=("attention",),
    mlp=("mlp",),
    norm1=("input_layernorm",),
    norm2=("post_attention_layernorm",),
    fused_projection=("query_key_value",),  # head by head
    output_projection=("dense",),
    up_projection=("dense_h_to_4h",),
    down_projection=("dense_4h_to_h",),
    head=("embed_out",),
)

GENERIC = ModuleNames(
    embedding=(
        "embed_tokens",
        "wte",
        "embed_in",
        "word_embeddings",
        "tok_embeddings",
        "embedding",
        "embeddings",
        "embed",
        "embd.wte",
    ),
    final_norm=("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "embedding_norm"),
    attention=(
        "self_attn",
        "attn.attention",
        "attn",
        "attention",
        "norm_attn_norm.attn",
        "linear_attn",
        "mixer",
        "temporal_block",
        "conv",
        "mamba",
    ),
    mlp=("mlp", "block_sparse_moe", "feed_forward", "ffn", "mlp_block", "ffn_block", "moe"),
    norm1=(
        "input_layernorm",
        "ln_1",
        "attention_norm",
        "norm1",
        "norm_1",
        "norm_attn_norm.norm_1",
        "attention_layernorm",
        "pre_mixer_norm",
        "attn_norm",
        "operator_norm",
        "temporal_pre_norm",
        "ln",
        "norm",
    ),
    norm2=(
        "pre_feedforward_layernorm",
        "post_attention_layernorm",
        "ln_2",
        "ffn_norm",
        "norm2",
        "norm_2",
        "norm_attn_norm.norm_2",
        "channel_pre_norm",
        "feedforward_layernorm",
        "pre_mlp_norm",
        "pre_ff_layernorm",
    ),
    attention_output_norm=("post_self_attn_layernorm", "post_mixer_norm"),
    mlp_output_norm=("post_mlp_layernorm", "post_mlp_norm"),
    query_projection=("q_proj", "attn_query"),
    key_projection=("k_proj", "attn_key"),
    value_projection=("v_proj", "attn_value"),
    fused_projection=("qkv_proj", "query_key_value", "c_attn", "wqkv", "Wqkv", "W_pack", "att_proj", "in_proj_qkv"),
    query_norm=("q_norm", "query_layernorm", "q_layernorm", "query_norm"),
    key_norm=("k_norm", "key_layernorm", "k_layernorm", "key_norm"),
    output_projection=("o_proj", "out_proj", "dense", "c_proj", "wo", "attn_resid"),
    up_projection=("up_proj", "dense_h_to_4h", "c_fc", "w3", "fc1", "fc_in", "linear_1"),
    gate_projection=("gate_proj", "w1"),
    fused_up_projection=("gate_up_proj", "ff_proj", "proj_1"),
    down_projection=("down_proj", "dense_4h_to_h", "c_proj", "w2", "fc2", "mlp_resid", "fc_out", "proj"),
    router=("gate", "router"),
    experts=("switch_mlp", "experts", "switch_glu"),
    shared_expert=("shared_experts", "shared_expert", "shared_mlp"),
    shared_expert_gate=("shared_expert_gate",),
    positions=("wpe", "position_embeddings"),
    head=("lm_head", "embed_out", "output", "ff_out"),
    is_generic=True,
)

MODULE_NAMES: dict[str, ModuleNames] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "mixtral": MIXTRAL,
    "gpt_oss": GPT_OSS,
    "llama4": LLAMA4,
    "granitemoe": GRANITE_MOE,
    "phi3": PHI3,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA3,
    "olmo2": OLMO2,
    "cohere2": COHERE2,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
"""By mlx-lm's model type; any other is read by GENERIC, whose findings the self-test confirms or drops."""
