"""An independent forward pass in numpy float64, written from the papers: what a capture is compared with.

It reads config.json and the safetensors files of a llama-shaped model (llama, mistral, qwen2, qwen3) or of a gpt2, in
mlx-lm's format, and returns every activation. It shares no code with mlx or mlx-lm, and knows no KV cache, no chunked
prefill and no batches: the whole prompt runs at once, layer by layer.

Activations are keyed by (component, layer), layer None for those of the whole model, in TransformerLens's layout.
B is 1, T the number of tokens (Tq and Tk where queries meet keys), kv_heads <= heads under grouped-query attention.

    embedding, final_norm                       None    (B, T, d_model)
    logits                                      None    (B, T, vocab)
    resid_pre, resid_mid, resid_post            layer   (B, T, d_model)
    ln1, ln2                                    layer   (B, T, d_model)         outputs of the norms
    attn_out, mlp_out                           layer   (B, T, d_model)         outputs of the modules
    attn_contrib, mlp_contrib                   layer   (B, T, d_model)         what is added to the stream
    q_proj                                      layer   (B, T, heads, d_head)   before rotary
    k_proj                                      layer   (B, T, kv_heads, d_head)
    query                                       layer   (B, T, heads, d_head)   after rotary, as attended
    key, value                                  layer   (B, T, kv_heads, d_head)
    attention_scores                            layer   (B, heads, Tq, Tk)      scaled; masked: lowest float32
    attention_pattern                           layer   (B, heads, Tq, Tk)
    head_output                                 layer   (B, T, heads, d_head)   z, before the output projection
    mlp_neurons                                 layer   (B, T, d_mlp)           input of the down projection

Every one of these points can be edited: `edits` maps it to a function of the float64 activation, whose value takes the
activation's place there and flows on to whatever the model computes from it, and only to that.

    forward(folder, ids, {("head_output", 2): lambda z: z * keep})         z: (1, T, heads, d_head)
    forward(folder, ids, {("resid_post", 5): lambda x: x + 4 * direction})
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]
Point = tuple[str, int | None]
Activations = dict[Point, Array]
Edits = Mapping[Point, Callable[[Array], Array]]
Weights = Mapping[str, Array]

MASKED_SCORE = float(np.finfo(np.float32).min)
LLAMA_SHAPED = ("llama", "mistral", "qwen2", "qwen3")


class Points:
    """Every activation passes through here on its way: it is edited if so wished, noted, and handed on."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.seen: Activations = {}

    def __call__(self, component: str, layer: int | None, x: Array) -> Array:
        if (component, layer) in self.edits:
            edited = self.edits[component, layer](x.copy(order="K"))  # the layout too, for bit-identical sums
            assert edited.shape == x.shape, f"the edit made {edited.shape} of {component}'s {x.shape}"
            x = edited
        self.seen[component, layer] = x
        return x


def forward(folder: Path, token_ids: Sequence[int], edits: Edits | None = None) -> Activations:
    """Every activation of the model in `folder` on one prompt, without a cache; edited ones as they became.

    Raises:
        NotImplementedError: the model has a part this reference does not compute; it never guesses.
        KeyError: an edit is of a point that the model does not have.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = {
        name: tensor.astype(np.float64)
        for file in sorted(folder.glob("model*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    tokens = np.asarray(token_ids, dtype=np.int64)[None, :]  # (B, T)
    at = Points(edits or {})
    if config["model_type"] == "gpt2":
        forward_gpt2(config, weights, tokens, at)
    elif config["model_type"] in LLAMA_SHAPED:
        forward_llama(config, weights, tokens, at)
    else:
        raise NotImplementedError(f"no numpy reference for model_type {config['model_type']!r}")
    never = sorted(map(str, at.edits.keys() - at.seen.keys()))
    if never:
        raise KeyError(f"no such point: {', '.join(never)}")
    return at.seen


# ------------------------------------------------------------------------------------------------ architectures


def forward_llama(config: Mapping[str, Any], weights: Weights, tokens: NDArray[np.int64], at: Points) -> None:
    """Touvron et al. 2023 (arXiv:2302.13971): pre-norm blocks of RMSNorm, rotary attention and SwiGLU.

    Grouped-query attention as in Ainslie et al. 2023 (arXiv:2305.13245); biases and the query and key norms of qwen
    (Henry et al. 2020, arXiv:2010.04245) apply where the file has their weights.
    """
    for key in ("rope_scaling", "rope_parameters", "rope_traditional"):
        if config.get(key):
            raise NotImplementedError(f"{key} is not part of this reference")
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    kv_heads = config.get("num_key_value_heads") or heads
    layers = config["num_hidden_layers"]
    layer_types = config.get("layer_types") or ["full_attention"] * layers
    positions = np.arange(tokens.shape[1])  # (T,)

    x = at("embedding", None, weights["model.embed_tokens.weight"][tokens])  # (B, T, d_model)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        attn, mlp = f"{block}.self_attn", f"{block}.mlp"
        x = at("resid_pre", layer, x)  # (B, T, d_model)
        normed = at("ln1", layer, rms_norm(x, weights[f"{block}.input_layernorm.weight"], eps))  # (B, T, d_model)

        query = split_heads(linear(weights, f"{attn}.q_proj", normed), heads)  # (B, T, heads, d_head)
        key = split_heads(linear(weights, f"{attn}.k_proj", normed), kv_heads)  # (B, T, kv_heads, d_head)
        value = split_heads(linear(weights, f"{attn}.v_proj", normed), kv_heads)  # (B, T, kv_heads, d_head)
        query, key = at("q_proj", layer, query), at("k_proj", layer, key)
        if f"{attn}.q_norm.weight" in weights:
            query = rms_norm(query, weights[f"{attn}.q_norm.weight"], eps)  # over d_head, one weight for all heads
            key = rms_norm(key, weights[f"{attn}.k_norm.weight"], eps)
        query, key = (rotate(head, positions, config["rope_theta"]) for head in (query, key))

        window = config["sliding_window"] if layer_types[layer] == "sliding_attention" else None
        z = attend(at, layer, query, key, value, window=window)  # (B, T, heads, d_head)
        x = add_attention(at, layer, x, linear(weights, f"{attn}.o_proj", merge_heads(z)))  # (B, T, d_model)

        normed = at("ln2", layer, rms_norm(x, weights[f"{block}.post_attention_layernorm.weight"], eps))
        gate = linear(weights, f"{mlp}.gate_proj", normed)  # (B, T, d_mlp)
        up = linear(weights, f"{mlp}.up_proj", normed)  # (B, T, d_mlp)
        neurons = at("mlp_neurons", layer, silu(gate) * up)  # (B, T, d_mlp), SwiGLU: Shazeer 2020
        x = add_mlp(at, layer, x, linear(weights, f"{mlp}.down_proj", neurons))  # (B, T, d_model)

    final = at("final_norm", None, rms_norm(x, weights["model.norm.weight"], eps))  # (B, T, d_model)
    tied = config.get("tie_word_embeddings", True)  # mlx-lm's default
    head = weights["model.embed_tokens.weight"] if tied else weights["lm_head.weight"]  # (vocab, d_model)
    at("logits", None, final @ head.T)  # (B, T, vocab)


def forward_gpt2(config: Mapping[str, Any], weights: Weights, tokens: NDArray[np.int64], at: Points) -> None:
    """Radford et al. 2019: pre-norm blocks of LayerNorm, attention with one fused projection, and a GELU MLP.

    Positions are learnt and added to the token embeddings; the head is the token embedding.
    """
    heads, eps = config["n_head"], config["layer_norm_epsilon"]

    embedding = at("embedding", None, weights["model.wte.weight"][tokens])  # (B, T, d_model), tokens only
    x = embedding + weights["model.wpe.weight"][: tokens.shape[1]]  # (B, T, d_model)
    for layer in range(config["n_layer"]):
        block = f"model.h.{layer}"
        x = at("resid_pre", layer, x)  # (B, T, d_model)
        normed = at("ln1", layer, layer_norm(weights, f"{block}.ln_1", x, eps))  # (B, T, d_model)

        fused = linear(weights, f"{block}.attn.c_attn", normed)  # (B, T, 3 * d_model): queries, keys, values
        query, key, value = (split_heads(part, heads) for part in np.split(fused, 3, axis=-1))  # (B, T, heads, d_head)
        query, key = at("q_proj", layer, query), at("k_proj", layer, key)

        z = attend(at, layer, query, key, value)  # (B, T, heads, d_head)
        x = add_attention(at, layer, x, linear(weights, f"{block}.attn.c_proj", merge_heads(z)))  # (B, T, d_model)

        normed = at("ln2", layer, layer_norm(weights, f"{block}.ln_2", x, eps))  # (B, T, d_model)
        neurons = at("mlp_neurons", layer, gelu_tanh(linear(weights, f"{block}.mlp.c_fc", normed)))  # (B, T, d_mlp)
        x = add_mlp(at, layer, x, linear(weights, f"{block}.mlp.c_proj", neurons))  # (B, T, d_model)

    final = at("final_norm", None, layer_norm(weights, "model.ln_f", x, eps))  # (B, T, d_model)
    at("logits", None, final @ weights["model.wte.weight"].T)  # (B, T, vocab)


# ------------------------------------------------------------------------------------------------ the residual stream


def add_attention(at: Points, layer: int, x: Array, output: Array) -> Array:
    """The residual connection around attention (He et al. 2015); nothing stands between module and stream."""
    contribution = at("attn_contrib", layer, at("attn_out", layer, output))  # (B, T, d_model)
    return at("resid_mid", layer, x + contribution)


def add_mlp(at: Points, layer: int, x: Array, output: Array) -> Array:
    """The residual connection around the MLP."""
    contribution = at("mlp_contrib", layer, at("mlp_out", layer, output))  # (B, T, d_model)
    return at("resid_post", layer, x + contribution)


# ------------------------------------------------------------------------------------------------ attention


def attend(at: Points, layer: int, query: Array, key: Array, value: Array, *, window: int | None = None) -> Array:
    """softmax(q k^T / sqrt(d_head)) v with a causal mask (Vaswani et al. 2017, equation 1): (B, T, heads, d_head).

    Query head h reads key/value head h // (heads / kv_heads): neighbours share one (Ainslie et al. 2023, figure 2).
    A window w limits position i to keys i - w + 1 ... i (Jiang et al. 2023, arXiv:2310.06825, section 2).
    """
    query, key, value = at("query", layer, query), at("key", layer, key), at("value", layer, value)
    heads, d_head = query.shape[2:]
    shared = heads // key.shape[2]
    keys = repeat_heads(key, shared)  # (B, T, heads, d_head)
    values = repeat_heads(value, shared)  # (B, T, heads, d_head)
    scores = np.einsum("bqhd,bkhd->bhqk", query, keys) / math.sqrt(d_head)  # (B, heads, Tq, Tk)
    scores = at("attention_scores", layer, np.where(attention_mask(query.shape[1], window), scores, MASKED_SCORE))
    pattern = at("attention_pattern", layer, softmax(scores))  # (B, heads, Tq, Tk)
    return at("head_output", layer, np.einsum("bhqk,bkhd->bqhd", pattern, values))  # (B, T, heads, d_head)


def attention_mask(length: int, window: int | None) -> NDArray[np.bool_]:
    """True where query position i may read key position j, (Tq, Tk)."""
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    allowed = j <= i
    return allowed if window is None else allowed & (i - j < window)


def rotate(x: Array, positions: NDArray[np.int64], theta: float) -> Array:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864, equation 34) of (B, T, heads, d_head).

    Pair p of dimensions turns by position * theta^(-2p / d_head). Dimensions p and p + d_head / 2 form a pair, the
    layout of GPT-NeoX and of mlx's `traditional=False`; the paper pairs 2p and 2p + 1.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-np.arange(half) / half)  # (d_head / 2,)
    angle = (positions[:, None] * frequency)[None, :, None, :]  # (1, T, 1, d_head / 2)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], axis=-1
    )


def repeat_heads(x: Array, shared: int) -> Array:
    """(B, T, kv_heads, d_head) -> (B, T, kv_heads * shared, d_head); copies of a head are neighbours."""
    return np.repeat(x, shared, axis=2)


def split_heads(x: Array, heads: int) -> Array:
    """(B, T, heads * d_head) -> (B, T, heads, d_head)"""
    return x.reshape(*x.shape[:2], heads, -1)


def merge_heads(x: Array) -> Array:
    """(B, T, heads, d_head) -> (B, T, heads * d_head)"""
    return x.reshape(*x.shape[:2], -1)


# ------------------------------------------------------------------------------------------------ elementary functions


def linear(weights: Weights, name: str, x: Array) -> Array:
    """x W^T + b, W stored as (outputs, inputs); the bias where the file has one."""
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4, with eps inside the root."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def layer_norm(weights: Weights, name: str, x: Array, eps: float) -> Array:
    """Ba et al. 2016 (arXiv:1607.06450); the variance is the biased one."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    normed = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x: Array) -> Array:
    """Over the last axis; the maximum is subtracted, which changes nothing but the range of exp."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    """x * sigmoid(x), Swish with beta 1 (Ramachandran et al. 2017, arXiv:1710.05941)."""
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    """Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2: the tanh approximation, which gpt2 was trained with."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
