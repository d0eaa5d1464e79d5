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

How such a model is made is in `tests.truth.planted`.
"""

from pathlib import Path

import numpy as np

from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, Head, Matrix, Stream

TOKENS, POSITIONS, JUNK_WIDTH = 16, 32, 16
HEADS, D_HEAD = 4, 32
STREAM = Stream(HEADS, D_HEAD, {"TOK": TOKENS, "POS": POSITIONS, "PREV": TOKENS, "OUT": TOKENS, "JUNK": JUNK_WIDTH})

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


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    tokens = {FIRST_TOKEN + token: {"TOK": token, "OUT": token} for token in range(TOKENS)}
    wte, wpe = planted.embeddings(STREAM, POSITIONS, tokens)
    return planted.save(folder, STREAM, wte, wpe, _layers(), prepends_bos=False)


def _layers() -> list[list[Head]]:
    first, second = layers = [[STREAM.head() for _ in range(HEADS)] for _ in range(2)]
    random = np.random.default_rng(0)
    tokens, positions = np.eye(TOKENS), np.eye(POSITIONS)
    before = np.eye(POSITIONS, k=-1)

    def junk(width: int, size: float) -> Matrix:
        return random.standard_normal((width, JUNK_WIDTH)) * size

    first[0].looks("POS", "POS", before).copies("TOK", "PREV", tokens)
    first[1].looks("TOK", "TOK", tokens).copies("POS", "JUNK", junk(POSITIONS, 0.3))
    first[2].copies("TOK", "JUNK", junk(TOKENS, 0.5))
    first[3].looks("POS", "POS", positions).copies("TOK", "JUNK", junk(TOKENS, 0.5))
    second[0].looks("TOK", "PREV", tokens).copies("TOK", "OUT", 8.0 * tokens)
    second[1].looks("POS", "POS", before).copies("TOK", "JUNK", junk(TOKENS, 0.5))
    second[2].copies("TOK", "OUT", tokens)
    second[3].looks("TOK", "TOK", tokens).copies("JUNK", "JUNK", junk(JUNK_WIDTH, 0.3))
    return layers
