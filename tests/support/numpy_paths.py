"""Edges of a transformer in numpy float64: a forward pass in which every receiver has an input of its own.

What exact edge patching ("path patching") and the gradients of edges are compared with. It shares the elementary
functions of `numpy_forward`, and nothing with mlx. The input of a receiver is the residual stream before the norm; the
queries, keys and values of every head are receivers, and so are MLPs and the logits. Senders are the input of the first
block, the heads, and the MLPs.

    paths = Paths(folder, ids)
    plain = paths.run()
    plain.logits                                             (T, vocab)
    plain.written["head_output", 0, 3]                       (T, d_model)
    paths.run({("k_proj", 1, 0): difference})                what adding to that input alone does

Nodes are (component, layer, head), as in the contract; layer and head are None where there is none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.support.numpy_forward import (
    Array,
    Points,
    attend,
    gelu_tanh,
    layer_norm,
    linear,
    rms_norm,
    rotate,
    silu,
)

Node = tuple[str, int | None, int | None]
INPUT: Node = ("resid_pre", 0, None)
LOGITS: Node = ("logits", None, None)


@dataclass
class Ran:
    """What a forward pass leaves."""

    logits: Array = field(default_factory=lambda: np.zeros(0))
    written: dict[Node, Array] = field(default_factory=dict[Node, Array])
    """What each sender adds to the stream, in their order (T, d_model)."""
    reach: dict[Node, int] = field(default_factory=dict[Node, int])
    """How many senders have written before a receiver reads, in the receivers' order."""

    def edges(self) -> Iterator[tuple[Node, Node]]:
        """Every sender with every receiver that it reaches."""
        senders = list(self.written)
        for receiver, count in self.reach.items():
            yield from ((sender, receiver) for sender in senders[:count])


class Paths:
    """A llama without biases in its norms, or a gpt2, on one prompt."""

    def __init__(self, folder: Path, ids: Sequence[int]) -> None:
        self.config: Mapping[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {
            name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.ids = np.asarray(ids)
        self.is_gpt2 = self.config["model_type"] == "gpt2"
        self.layers: int = self.config["n_layer" if self.is_gpt2 else "num_hidden_layers"]
        self.heads: int = self.config["n_head" if self.is_gpt2 else "num_attention_heads"]
        self.kv_heads: int = self.heads if self.is_gpt2 else self.config["num_key_value_heads"]

    def run(
        self, added: Mapping[Node, Array] | None = None, changed: Mapping[Node, Mapping[Node, Array]] | None = None
    ) -> Ran:
        """A forward pass; `added` is what receivers read besides the stream, `changed` what they read of senders in the
        place of what these write here."""
        added, changed, ran = added or {}, changed or {}, Ran()

        def reads(node: Node, x: Array) -> Array:
            ran.reach[node] = len(ran.written)
            for sender, other in changed.get(node, {}).items():
                x = x + (other - ran.written[sender])
            return x + added[node] if node in added else x

        def writes(node: Node, x: Array, output: Array) -> Array:
            ran.written[node] = output
            return x + output

        x = writes(INPUT, np.zeros(()), self._embedded())
        for layer in range(self.layers):
            x = self._attention(layer, x, reads, writes)
            normed = self._norm(layer, 1, reads(("mlp_out", layer, None), x))
            x = writes(("mlp_contrib", layer, None), x, self._mlp(layer, normed))
        x = reads(LOGITS, x)
        if self.is_gpt2:
            eps = self.config["layer_norm_epsilon"]
            ran.logits = layer_norm(self.weights, "model.ln_f", x, eps) @ self.weights["model.wte.weight"].T
        else:
            final = rms_norm(x, self.weights["model.norm.weight"], self.config["rms_norm_eps"])
            ran.logits = linear(self.weights, "lm_head", final)
        return ran

    def _embedded(self) -> Array:
        if not self.is_gpt2:
            return self.weights["model.embed_tokens.weight"][self.ids]
        return self.weights["model.wte.weight"][self.ids] + self.weights["model.wpe.weight"][: len(self.ids)]

    def _norm(self, layer: int, which: int, x: Array) -> Array:
        if self.is_gpt2:
            name = f"model.h.{layer}.ln_{which + 1}"
            return layer_norm(self.weights, name, x, self.config["layer_norm_epsilon"])
        name = ("input_layernorm", "post_attention_layernorm")[which]
        return rms_norm(x, self.weights[f"model.layers.{layer}.{name}.weight"], self.config["rms_norm_eps"])

    def _attention(self, layer: int, x: Array, reads: Any, writes: Any) -> Array:
        matrices, biases, output, bias = self._matrices(layer)
        parts: list[Array] = []
        plain = self._norm(layer, 0, x)
        for name, matrix, offset in zip(("q_proj", "k_proj", "value"), matrices, biases, strict=True):
            heads: list[Array] = []
            for head in range(len(matrix)):
                own = reads((name, layer, head), x)
                heads.append((plain if own is x else self._norm(layer, 0, own)) @ matrix[head] + offset[head])
            parts.append(np.stack(heads, axis=1)[None])  # (1, T, heads, d_head)
        query, key, value = parts
        if not self.is_gpt2:
            positions = np.arange(len(self.ids))
            query, key = (rotate(part, positions, self.config["rope_theta"]) for part in (query, key))
        z = attend(Points({}), layer, query, key, value)[0]
        for head in range(self.heads):
            x = writes(("head_output", layer, head), x, z[:, head] @ output[head])
        return x + bias

    def _matrices(self, layer: int) -> tuple[list[Array], list[Array], Array, Array]:
        """By head: of queries, keys and values (heads, d_model, d_head) and their biases, and of the output."""
        weights = self.weights
        if self.is_gpt2:
            block = f"model.h.{layer}.attn"
            fused, offset = weights[f"{block}.c_attn.weight"].T, weights[f"{block}.c_attn.bias"]
            matrices = [_by_head(part, self.heads) for part in np.split(fused, 3, axis=1)]
            biases = [part.reshape(self.heads, -1) for part in np.split(offset, 3)]
            output, bias = weights[f"{block}.c_proj.weight"].T, weights[f"{block}.c_proj.bias"]
        else:
            block = f"model.layers.{layer}.self_attn"
            counts = (self.heads, self.kv_heads, self.kv_heads)
            matrices = [
                _by_head(weights[f"{block}.{name}_proj.weight"].T, count)
                for name, count in zip("qkv", counts, strict=True)
            ]
            biases = [np.zeros((count, 1)) for count in counts]
            output = weights[f"{block}.o_proj.weight"].T
            bias = np.zeros(output.shape[1])
        return matrices, biases, output.reshape(self.heads, -1, output.shape[1]), bias

    def _mlp(self, layer: int, normed: Array) -> Array:
        if self.is_gpt2:
            block = f"model.h.{layer}.mlp"
            return linear(self.weights, f"{block}.c_proj", gelu_tanh(linear(self.weights, f"{block}.c_fc", normed)))
        block = f"model.layers.{layer}.mlp"
        gate, up = (linear(self.weights, f"{block}.{name}_proj", normed) for name in ("gate", "up"))
        return linear(self.weights, f"{block}.down_proj", silu(gate) * up)


def _by_head(matrix: Array, heads: int) -> NDArray[np.float64]:
    """(d_model, heads * d_head) to (heads, d_model, d_head)"""
    return matrix.reshape(matrix.shape[0], heads, -1).transpose(1, 0, 2)
