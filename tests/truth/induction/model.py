"""The weights of an induction circuit, written by hand into mlx-lm's own gpt2 shape; nothing is trained.

The residual stream (256) is cut into subspaces with one dimension for each token or position: TOK and POS hold what the
embeddings say, PREV gets the token before, OUT gets what is read as logits, JUNK gets what nobody reads.

    head     attends to                       copies          to
    0.0      the position before              TOK             PREV     the circuit's first head
    0.1      the same token                   POS             JUNK     a decoy: duplicate token
    0.2      everything                       TOK             JUNK     a decoy
    0.3      itself                           TOK             JUNK     a decoy
    1.0      where PREV is its own token      TOK             OUT      the circuit's second head: induction
    1.1      the position before              TOK             JUNK     a decoy with 0.0's pattern and no effect
    1.2      everything                       TOK             OUT      weak: the bag of words
    1.3      the same token                   JUNK            JUNK     a decoy that reads decoys

Layer norms do no harm: what is written adds up to zero over the stream, so there is no mean to subtract, and two
dimensions of PAD hold constants so large that the rest does not show in the variance. Weights behind a norm undo the
division by that variance. MLPs write nothing.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.support.byte_bpe import BOS_ID, EOS_ID, save_tokenizer

TOKENS, POSITIONS, JUNK_WIDTH = 24, 48, 24
FIRST_TOKEN = 5  # ids below are special
VOCABULARY = 512
HEADS, D_HEAD, LAYERS = 4, 64, 2
D_MODEL = HEADS * D_HEAD
SHARPNESS = 12.0  # scores of what a head looks for; all else has 0
PAD_CONSTANT = 64.0

TOK, POS, PREV, OUT, JUNK = (
    slice(first, first + width)
    for first, width in zip(
        np.cumsum([0, TOKENS, POSITIONS, TOKENS, TOKENS]).tolist(),
        (TOKENS, POSITIONS, TOKENS, TOKENS, JUNK_WIDTH),
        strict=True,
    )
)
BALANCE, PLUS, MINUS = D_MODEL - 3, D_MODEL - 2, D_MODEL - 1

CIRCUIT = {
    (("resid_pre", 0, None), ("value", 0, 0)),
    (("head_output", 0, 0), ("k_proj", 1, 0)),
    (("resid_pre", 0, None), ("value", 1, 0)),
    (("head_output", 1, 0), ("logits", None, None)),
}
"""Edges that a change of tokens travels, the last token kept: (sender, receiver) as (component, layer, head).

The edges that carry positions, and the query of the kept last token, belong to the mechanism as well and have no effect
under such a change.
"""

Matrix = NDArray[np.float64]


class _Head:
    """One head: (d_model, d_head) queries, keys, values and (d_head, d_model) output, behind a norm that divides."""

    def __init__(self, divisor: float) -> None:
        self.divisor = divisor
        self.query, self.key, self.value = (np.zeros((D_MODEL, D_HEAD)) for _ in range(3))
        self.output = np.zeros((D_HEAD, D_MODEL))

    def looks(self, query: slice, key: slice, wanted: Matrix) -> None:
        """Scores SHARPNESS * query wanted key."""
        width = wanted.shape[1]
        self.query[query, :width] = wanted * SHARPNESS * np.sqrt(D_HEAD) * self.divisor
        self.key[key, :width] = np.eye(width) * self.divisor

    def copies(self, source: slice, target: slice, how: Matrix) -> None:
        """Writes source @ how to the target, and what balances the sum."""
        width = how.shape[0]
        self.value[source, :width] = np.eye(width) * self.divisor
        self.output[:width, target] = how
        self.output[:width, BALANCE] = -how.sum(axis=1)


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "gpt2",
        "n_ctx": POSITIONS,
        "n_embd": D_MODEL,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": POSITIONS,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(folder, vocab_size=VOCABULARY, prepends_bos=False)
    single = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in _weights().items()}
    save_file(single, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _weights() -> dict[str, Matrix]:
    wte, wpe = np.zeros((VOCABULARY, D_MODEL)), np.zeros((POSITIONS, D_MODEL))
    rows = slice(FIRST_TOKEN, FIRST_TOKEN + TOKENS)
    wte[rows, TOK] = np.eye(TOKENS)
    wte[rows, OUT] = np.eye(TOKENS)  # the head is the embedding: it reads OUT, and the last norm hides the rest from it
    wte[rows, BALANCE] = -2.0
    wpe[:, POS] = np.eye(POSITIONS)
    wpe[:, BALANCE] = -1.0
    wpe[:, PLUS], wpe[:, MINUS] = PAD_CONSTANT, -PAD_CONSTANT
    divisor = float(np.sqrt(2 * PAD_CONSTANT**2 / D_MODEL))
    weights: dict[str, Matrix] = {"model.wte.weight": wte, "model.wpe.weight": wpe}
    for layer, heads in enumerate(_layers(divisor)):
        block = f"model.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            weights[f"{block}.{norm}.weight"], weights[f"{block}.{norm}.bias"] = np.ones(D_MODEL), np.zeros(D_MODEL)
        parts = [np.concatenate([getattr(head, part) for head in heads], axis=1) for part in ("query", "key", "value")]
        weights[f"{block}.attn.c_attn.weight"] = np.concatenate(parts, axis=1).T
        weights[f"{block}.attn.c_attn.bias"] = np.zeros(3 * D_MODEL)
        weights[f"{block}.attn.c_proj.weight"] = np.concatenate([head.output for head in heads]).T
        weights[f"{block}.attn.c_proj.bias"] = np.zeros(D_MODEL)
        weights[f"{block}.mlp.c_fc.weight"] = np.zeros((4 * D_MODEL, D_MODEL))
        weights[f"{block}.mlp.c_fc.bias"] = np.zeros(4 * D_MODEL)
        weights[f"{block}.mlp.c_proj.weight"] = np.zeros((D_MODEL, 4 * D_MODEL))
        weights[f"{block}.mlp.c_proj.bias"] = np.zeros(D_MODEL)
    last = np.zeros(D_MODEL)
    last[OUT] = divisor
    weights["model.ln_f.weight"], weights["model.ln_f.bias"] = last, np.zeros(D_MODEL)
    return weights


def _layers(divisor: float) -> list[list[_Head]]:
    layers = [[_Head(divisor) for _ in range(HEADS)] for _ in range(LAYERS)]
    first, second = layers
    random = np.random.default_rng(0)
    tokens, positions = np.eye(TOKENS), np.eye(POSITIONS)
    before = np.eye(POSITIONS, k=-1)

    def junk(width: int, size: float) -> Matrix:
        return random.standard_normal((width, JUNK_WIDTH)) * size

    first[0].looks(POS, POS, before)
    first[0].copies(TOK, PREV, tokens)
    first[1].looks(TOK, TOK, tokens)
    first[1].copies(POS, JUNK, junk(POSITIONS, 0.3))
    first[2].copies(TOK, JUNK, junk(TOKENS, 0.5))
    first[3].looks(POS, POS, positions)
    first[3].copies(TOK, JUNK, junk(TOKENS, 0.5))
    second[0].looks(TOK, PREV, tokens)
    second[0].copies(TOK, OUT, 8.0 * tokens)
    second[1].looks(POS, POS, before)
    second[1].copies(TOK, JUNK, junk(TOKENS, 0.5))
    second[2].copies(TOK, OUT, tokens)
    second[3].looks(TOK, TOK, tokens)
    second[3].copies(JUNK, JUNK, junk(JUNK_WIDTH, 0.3))
    return layers
