"""How architectures name the parts of a transformer: one table, an entry per family and one for the rest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Attribute names of the parts, best first; a part without names does not exist in the family.

    The names are those of mlx-lm's modules.
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
    fused_projection: tuple[str, ...] = ()  # queries, keys and values side by side
    output_projection: tuple[str, ...] = ()
    down_projection: tuple[str, ...] = ()
    router: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    is_generic: bool = False


LLAMA = Family(
    embedding=("embed_tokens",),
    final_norm=("norm",),
    attention=("self_attn",),
    mlp=("mlp",),
    norm1=("input_layernorm",),
    norm2=("post_attention_layernorm",),
    query_projection=("q_proj",),
    key_projection=("k_proj",),
    output_projection=("o_proj",),
    down_projection=("down_proj",),
)

GPT2 = Family(
    embedding=("wte",),
    final_norm=("ln_f",),
    attention=("attn",),
    mlp=("mlp",),
    norm1=("ln_1",),
    norm2=("ln_2",),
    fused_projection=("c_attn",),
    output_projection=("c_proj",),
    down_projection=("c_proj",),
)

GENERIC = Family(
    embedding=("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "embedding"),
    final_norm=("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "embedding_norm"),
    attention=("self_attn", "attn", "attention", "linear_attn", "mixer", "temporal_block"),
    mlp=("mlp", "block_sparse_moe", "feed_forward", "ffn", "mlp_block", "ffn_block"),
    norm1=("input_layernorm", "ln_1", "attention_norm", "norm1", "norm_1"),
    norm2=("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "ffn_norm", "norm2", "norm_2"),
    query_projection=("q_proj",),
    key_projection=("k_proj",),
    output_projection=("o_proj", "out_proj", "dense", "c_proj"),
    down_projection=("down_proj", "dense_4h_to_h", "c_proj", "w2", "fc2"),
    router=("gate", "router"),
    experts=("switch_mlp", "experts"),
    is_generic=True,
)

FAMILIES: dict[str, Family] = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "gpt2": GPT2}
"""By mlx-lm's model type; any other is read by GENERIC, whose findings the self-test confirms or drops."""
