"""A gpt2 or a llama whose weights are written by hand: heads that look for something and copy something, in one-hot
subspaces.

The residual stream is cut into named subspaces with one dimension for each token, position, ...; a head reads some and
writes into one. Layer norms do no harm: what is written adds up to zero over the stream, so there is no mean to
subtract, and two dimensions of PAD hold constants so large that the rest does not show in the variance. Weights behind
a norm undo the division by that variance. MLPs write nothing, but for those of a llama that are written, too.

A llama turns queries and keys by their positions; what heads look for stands in the dimensions that turn slowest, and
the base is so large that they do not turn at all over a prompt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.support.byte_bpe import BOS_ID, EOS_ID, save_tokenizer

SHARPNESS = 12.0  # scores of what a head looks for; all else has 0
FIRST_TOKEN = 5  # ids below are special
VOCABULARY = 512
_GATE = 40.0  # silu of it is itself, to the last bit of a float32

Matrix = NDArray[np.float64]


class Stream:
    """The residual stream of a model, cut into subspaces.

    Args:
        heads: of a layer.
        d_head: width of each.
        widths: of the subspaces, by name; what is left over is padding.
        pad: the constant that hides the rest from norms; the larger, the less of it they see.
        is_balanced: what is written adds up to zero, for norms that subtract the mean.
    """

    def __init__(
        self, heads: int, d_head: int, widths: Mapping[str, int], pad: float = 64.0, *, is_balanced: bool = True
    ) -> None:
        self.is_balanced = is_balanced
        self.heads, self.d_head, self.d_model = heads, d_head, heads * d_head
        assert sum(widths.values()) <= self.d_model - 3
        ends = np.cumsum(list(widths.values())).tolist()
        self._slices = {name: slice(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}
        self.balance, self.plus, self.minus = self.d_model - 3, self.d_model - 2, self.d_model - 1
        self.divisor = float(np.sqrt(2 * pad**2 / self.d_model))
        self.pad = pad

    @property
    def names(self) -> list[str]:
        """Of the subspaces."""
        return list(self._slices)

    def __getitem__(self, name: str) -> slice:
        return self._slices[name]

    def head(self) -> "Head":
        """A head that looks for nothing and writes nothing."""
        return Head(self)


class Head:
    """One head: (d_model, d_head) queries, keys, values and (d_head, d_model) output, behind a norm that divides."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._used = 0  # columns of queries and keys
        self.query, self.key, self.value = (np.zeros((stream.d_model, stream.d_head)) for _ in range(3))
        self.output = np.zeros((stream.d_head, stream.d_model))

    def looks(self, query: str, key: str, wanted: Matrix, sharpness: float = SHARPNESS) -> "Head":
        """Adds sharpness * query wanted key to its scores."""
        stream, width = self._stream, wanted.shape[1]
        columns = slice(self._used, self._used + width)
        self._used = columns.stop
        self.query[stream[query], columns] = wanted * sharpness * np.sqrt(stream.d_head) * stream.divisor
        self.key[stream[key], columns] = np.eye(width) * stream.divisor
        return self

    def copies(self, source: str, target: str, how: Matrix) -> "Head":
        """Writes source @ how to the target, and what balances the sum."""
        stream, width = self._stream, how.shape[0]
        self.value[stream[source], :width] = np.eye(width) * stream.divisor
        self.output[:width, stream[target]] = how
        if stream.is_balanced:
            self.output[:width, stream.balance] = -how.sum(axis=1)
        return self


@dataclass
class Mlp:
    """An MLP of a llama that writes stream @ how: its gate is open so wide that it lets through what the rest reads."""

    source: str
    target: str
    how: Matrix

    def neurons(self, stream: Stream) -> "Neurons":
        """Each reads one dimension."""
        width = self.how.shape[0]
        found = Neurons.silent(stream, width)
        found.gate[:, stream.plus] = _GATE * stream.divisor / stream.pad
        found.up[:, stream[self.source]] = np.eye(width) * stream.divisor
        found.down[stream[self.target]] = self.how.T / _GATE
        return found


@dataclass
class Lookup:
    """An MLP of a llama that writes a row of a table where its key stands in both sources: a neuron for each entry."""

    first: str
    second: str
    target: str
    table: Mapping[tuple[int, int], int]
    """By dimensions of both sources, that of the target."""

    def neurons(self, stream: Stream) -> "Neurons":
        """Open where both dimensions are 1, shut where one is 0."""
        found = Neurons.silent(stream, len(self.table))
        found.up[:, stream.plus] = stream.divisor / stream.pad
        found.gate[:, stream.plus] = -3 * _GATE * stream.divisor / stream.pad
        for neuron, ((first, second), entry) in enumerate(self.table.items()):
            for source, index in ((self.first, first), (self.second, second)):
                found.gate[neuron, stream[source].start + index] = 2 * _GATE * stream.divisor
            found.down[stream[self.target].start + entry, neuron] = 1 / _GATE
        return found


@dataclass
class Products:
    """An MLP of a llama that writes products of two sources: (gate + x) y - gate y, two neurons for each."""

    first: str
    second: str
    target: str
    terms: Sequence[tuple[int, int, int, float]]
    """Dimension of the first source, of the second one, of the target, and the factor."""

    def neurons(self, stream: Stream) -> "Neurons":
        """A gate that is far open multiplies what it reads with what its neuron reads."""
        found = Neurons.silent(stream, 2 * len(self.terms))
        found.gate[:, stream.plus] = _GATE * stream.divisor / stream.pad
        for index, (first, second, target, factor) in enumerate(self.terms):
            both = slice(2 * index, 2 * index + 2)
            found.gate[2 * index, stream[self.first].start + first] = stream.divisor
            found.up[both, stream[self.second].start + second] = stream.divisor
            found.down[stream[self.target].start + target, both] = factor * np.array([1.0, -1.0])
        return found


@dataclass
class Neurons:
    """Weights of an MLP's neurons: gate and up (neuron, d_model), down (d_model, neuron)."""

    gate: Matrix
    up: Matrix
    down: Matrix

    @classmethod
    def silent(cls, stream: Stream, count: int) -> "Neurons":
        """So many that write nothing."""
        gate, up = (np.zeros((count, stream.d_model)) for _ in range(2))
        return cls(gate, up, np.zeros((stream.d_model, count)))


def embeddings(stream: Stream, positions: int, written: Mapping[int, Mapping[str, int]]) -> tuple[Matrix, Matrix]:
    """wte and wpe. The head is wte too: it reads what tokens have in OUT, and the last norm hides the rest from it.

    Args:
        stream: the subspaces; positions have theirs, POS.
        positions: how many.
        written: by token id and subspace, the dimension that is 1.
    """
    wte, wpe = np.zeros((VOCABULARY, stream.d_model)), np.zeros((positions, stream.d_model))
    for token, ones in written.items():
        for name, index in ones.items():
            wte[token, stream[name].start + index] = 1
        wte[token, stream.balance] = -len(ones)
    wpe[:, stream["POS"]] = np.eye(positions)
    wpe[:, stream.balance] = -1.0
    wpe[:, stream.plus], wpe[:, stream.minus] = stream.pad, -stream.pad
    return wte, wpe


def save(
    folder: Path, stream: Stream, wte: Matrix, wpe: Matrix, layers: Sequence[Sequence[Head]], *, prepends_bos: bool
) -> Path:
    """Writes the model, with a tokenizer, and gives its folder, made if missing; logits are read off OUT."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "gpt2",
        "n_ctx": len(wpe),
        "n_embd": stream.d_model,
        "n_head": stream.heads,
        "n_layer": len(layers),
        "n_positions": len(wpe),
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(folder, vocab_size=VOCABULARY, prepends_bos=prepends_bos)
    weights: dict[str, Matrix] = {"model.wte.weight": wte, "model.wpe.weight": wpe}
    for layer, heads in enumerate(layers):
        weights |= {f"model.h.{layer}.{name}": tensor for name, tensor in _block(stream, heads).items()}
    last = np.zeros(stream.d_model)
    last[stream["OUT"]] = stream.divisor
    weights["model.ln_f.weight"], weights["model.ln_f.bias"] = last, np.zeros(stream.d_model)
    single = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in weights.items()}
    save_file(single, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _block(stream: Stream, heads: Sequence[Head]) -> dict[str, Matrix]:
    width = stream.d_model
    parts = [np.concatenate([getattr(head, part) for head in heads], axis=1) for part in ("query", "key", "value")]
    weights: dict[str, Matrix] = {
        "attn.c_attn.weight": np.concatenate(parts, axis=1).T,
        "attn.c_attn.bias": np.zeros(3 * width),
        "attn.c_proj.weight": np.concatenate([head.output for head in heads]).T,
        "attn.c_proj.bias": np.zeros(width),
        "mlp.c_fc.weight": np.zeros((4 * width, width)),
        "mlp.c_fc.bias": np.zeros(4 * width),
        "mlp.c_proj.weight": np.zeros((width, 4 * width)),
        "mlp.c_proj.bias": np.zeros(width),
    }
    for norm in ("ln_1", "ln_2"):
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = np.ones(width), np.zeros(width)
    return weights


_ROPE_BASE = 1e18


def save_llama(
    folder: Path,
    stream: Stream,
    embedded: Matrix,
    layers: Sequence[Sequence[Head]],
    mlps: Mapping[int, Sequence[Mlp | Lookup | Products]],
    neurons: int,
    read: Matrix | None = None,
) -> Path:
    """Writes a llama with a tokenizer, and gives its folder, made if missing; logits are read off OUT.

    Args:
        folder: where.
        stream: the subspaces; it is not balanced, since a llama's norms subtract no mean.
        embedded: (VOCABULARY, d_model).
        layers: the heads of each.
        mlps: by layer.
        neurons: of each MLP.
        read: logits of the first tokens from OUT (width, tokens); None: each dimension is that of a token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": stream.d_model,
        "num_hidden_layers": len(layers),
        "intermediate_size": neurons,
        "num_attention_heads": stream.heads,
        "num_key_value_heads": stream.heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": _ROPE_BASE,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(folder, vocab_size=VOCABULARY, prepends_bos=False)
    unembedding = np.zeros((VOCABULARY, stream.d_model))
    out = stream["OUT"]
    read = np.eye(out.stop - out.start) if read is None else read
    unembedding[FIRST_TOKEN : FIRST_TOKEN + read.shape[1], out] = read.T * stream.divisor
    weights: dict[str, Matrix] = {
        "model.embed_tokens.weight": embedded,
        "model.norm.weight": np.ones(stream.d_model),
        "lm_head.weight": unembedding,
    }
    slowest = _slowest_first(stream.d_head)
    for layer, heads in enumerate(layers):
        block = f"model.layers.{layer}"
        for name, part in (("q", "query"), ("k", "key")):
            turned = np.zeros((stream.d_model, len(heads), stream.d_head))
            for index, head in enumerate(heads):
                turned[:, index, slowest] = getattr(head, part)
            weights[f"{block}.self_attn.{name}_proj.weight"] = turned.reshape(stream.d_model, -1).T
        weights[f"{block}.self_attn.v_proj.weight"] = np.concatenate([head.value for head in heads], axis=1).T
        weights[f"{block}.self_attn.o_proj.weight"] = np.concatenate([head.output for head in heads]).T
        weights |= {
            f"{block}.mlp.{name}": tensor for name, tensor in _mlp(stream, mlps.get(layer, ()), neurons).items()
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{block}.{norm}.weight"] = np.ones(stream.d_model)
    single = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in weights.items()}
    save_file(single, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _slowest_first(d_head: int) -> list[int]:
    """Dimensions of a head by how fast rotary embedding turns them: i and i + d_head / 2 turn together."""
    half = d_head // 2
    return [place for pair in reversed(range(half)) for place in (pair, pair + half)]


def _mlp(stream: Stream, written: Sequence[Mlp | Lookup | Products], neurons: int) -> dict[str, Matrix]:
    whole = Neurons.silent(stream, neurons)
    used = 0
    for mlp in written:
        part = mlp.neurons(stream)
        places = slice(used, used + len(part.gate))
        used = places.stop
        whole.gate[places], whole.up[places], whole.down[:, places] = part.gate, part.up, part.down
    assert used <= neurons
    return {"gate_proj.weight": whole.gate, "up_proj.weight": whole.up, "down_proj.weight": whole.down}
