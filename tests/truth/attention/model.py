"""The weights of heads with every role that an analysis of attention knows, and of decoys, written by hand.

The residual stream (768) has subspaces BOS (one dimension: the beginning), TOK and POS for what the embeddings say,
PREV for the token before, OUT for what is read as logits, and JUNK for what nobody reads.

    role                 head   decoy   attends to                           the head copies
    previous-token       0.0    0.5     the position before                  TOK to PREV, which induction reads
    duplicate-token      0.1    0.6     the same token, not itself           TOK to OUT
    first-token sink     0.2    0.7     the beginning                        BOS to OUT: always the same
    positional           0.3    1.2     three positions before               TOK to OUT
    uniform              0.4    1.3     everything alike                     TOK to OUT
    induction            1.0    1.1     where PREV is its own token          TOK to OUT

A decoy has its head's pattern and writes to JUNK. Heads 1.4 to 1.7 attend to a class of tokens each and copy it to OUT,
the last one with its sign turned: by their patterns they have no role.
"""

from pathlib import Path

import numpy as np

from tests.support.byte_bpe import BOS_ID
from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, Head, Matrix, Stream

TOKENS, POSITIONS, JUNK_WIDTH = 24, 48, 24
HEADS, D_HEAD = 8, 96
DISTANCE = 3
STREAM = Stream(
    HEADS,
    D_HEAD,
    {"BOS": 1, "TOK": TOKENS, "POS": POSITIONS, "PREV": TOKENS, "OUT": TOKENS, "JUNK": JUNK_WIDTH},
    pad=256.0,
)
TOKEN_IDS = list(range(FIRST_TOKEN, FIRST_TOKEN + TOKENS))
BLOCK = 20
"""Tokens of a block: two and the beginning have positions."""

PLANTED = {
    "previous_token": (0, 0),
    "duplicate_token": (0, 1),
    "first_token_sink": (0, 2),
    "positional": (0, 3),
    "uniform": (0, 4),
    "induction": (1, 0),
}
"""The head of each role by pattern."""
COPYING = {(0, 1), (0, 3), (0, 4), (1, 0), (1, 4), (1, 5), (1, 6)}
"""Heads that copy tokens to OUT."""
SUPPRESSING = {(1, 7)}
"""The one that does so with its sign turned."""
DECOYS = {
    "previous_token": (0, 5),
    "duplicate_token": (0, 6),
    "first_token_sink": (0, 7),
    "positional": (1, 2),
    "uniform": (1, 3),
    "induction": (1, 1),
}
"""The head that has its pattern."""


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    written = {token: {"TOK": index, "OUT": index} for index, token in enumerate(TOKEN_IDS)}
    wte, wpe = planted.embeddings(STREAM, POSITIONS, {BOS_ID: {"BOS": 0}, **written})
    return planted.save(folder, STREAM, wte, wpe, _layers(), prepends_bos=True)


def _layers() -> list[list[Head]]:
    layers = [[STREAM.head() for _ in range(HEADS)] for _ in range(2)]
    random = np.random.default_rng(0)
    tokens = np.eye(TOKENS)

    def looking(where: tuple[int, int], role: str) -> Head:
        """The head there, with the pattern of a role."""
        head = layers[where[0]][where[1]]
        match role:
            case "previous_token":
                return head.looks("POS", "POS", np.eye(POSITIONS, k=-1))
            case "duplicate_token":
                return head.looks("TOK", "TOK", tokens).looks("POS", "POS", -np.eye(POSITIONS))
            case "first_token_sink":
                return head.looks("POS", "BOS", np.ones((POSITIONS, 1)))
            case "positional":
                return head.looks("POS", "POS", np.eye(POSITIONS, k=-DISTANCE))
            case "induction":
                return head.looks("TOK", "PREV", tokens)
            case _:
                return head

    def junk(width: int) -> Matrix:
        return random.standard_normal((width, JUNK_WIDTH)) * 0.5

    effects = {
        "previous_token": ("TOK", "PREV", tokens),
        "duplicate_token": ("TOK", "OUT", 3.0 * tokens),
        "first_token_sink": ("BOS", "OUT", np.linspace(-4.0, 4.0, TOKENS)[None, :]),
        "positional": ("TOK", "OUT", 3.0 * tokens),
        "uniform": ("TOK", "OUT", 30.0 * tokens),
        "induction": ("TOK", "OUT", 8.0 * tokens),
    }
    for role, where in PLANTED.items():
        looking(where, role).copies(*effects[role])
    for role, where in DECOYS.items():
        source = effects[role][0]
        looking(where, role).copies(source, "JUNK", junk(STREAM[source].stop - STREAM[source].start))
    for index, head in enumerate(layers[1][4:]):
        of_class = np.zeros((POSITIONS, TOKENS))
        of_class[:, index::4] = 1.0
        sign = -1.0 if (1, 4 + index) in SUPPRESSING else 1.0
        head.looks("POS", "TOK", of_class).copies("TOK", "OUT", sign * 2.0 * tokens)
    return layers
