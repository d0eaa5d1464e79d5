"""A llama whose components write to known orthogonal subspaces of the residual stream, written by hand.

A prompt is START, a subject, some words, and QUERY; the answer is the subject. In the last layers OUT is what logits
read. Heads at QUERY look at the subject or at QUERY itself; those of every other token, and heads without a job, look
at START, which holds nothing that could be moved.

    component   reads                   writes
    a0.h0       the subject's TOK       SKIP      which a3.h0 alone reads: a skip over layers 1 and 2
    a0.h1       the subject's TOK       MID       which a1.h1 reads, and a3.h1 too
    a0.h2       the subject's TOK       ERASED    which a1.h2, the erase head, reads and takes away again
    a0.h3       the subject's TOK       JUNK      a decoy: nobody reads it
    m0          TOK, everywhere         NOISE     another one
    a1.h0       the subject's TOK       LATE      which m3 alone reads: a skip
    a1.h1       MID                     OUT       read by the logits: a skip over layers 2 and 3
    a1.h2       ERASED                  -ERASED
    a2.h2       ERASED                  OUT       nothing in a run as it is
    a3.h0       SKIP                    OUT
    a3.h1       MID                     OUT
    m3          LATE                    OUT
"""

from pathlib import Path

import numpy as np

from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, VOCABULARY, Head, Matrix, Mlp, Stream

SUBJECTS = 8
WORDS = 4
TOKENS = SUBJECTS + WORDS
HEADS, D_HEAD, LAYERS, NEURONS = 4, 32, 4, 64
START, QUERY = 500, 501
SUBJECT_IDS = list(range(FIRST_TOKEN, FIRST_TOKEN + SUBJECTS))
WORD_IDS = list(range(FIRST_TOKEN + SUBJECTS, FIRST_TOKEN + TOKENS))
_ROOMS = ("SKIP", "MID", "ERASED", "JUNK", "NOISE", "LATE", "OUT")
_SHARPNESS = 40.0  # of heads' scores: what they do not look for has e^-40 of their attention
STREAM = Stream(
    HEADS,
    D_HEAD,
    {"START": 1, "SUBJECT": 1, "QUERY": 1, "OTHER": 1, "TOK": TOKENS, **dict.fromkeys(_ROOMS, TOKENS)},
    pad=4096.0,
    is_balanced=False,
)

WRITES: dict[str, tuple[str, float]] = {
    "a0.h0": ("SKIP", 1.5),
    "a0.h1": ("MID", 1.25),
    "a0.h2": ("ERASED", 1.0),
    "a0.h3": ("JUNK", 2.0),
    "a1.h0": ("LATE", 0.75),
    "a1.h1": ("OUT", 1.25),
    "a1.h2": ("ERASED", -1.0),
    "a2.h2": ("OUT", 0.0),
    "a3.h0": ("OUT", 3.0),
    "a3.h1": ("OUT", 1.25),
    "m3": ("OUT", 2.25),
}
"""Where each component writes at QUERY, and how much of the subject's direction there."""
NOISE_NORM = 0.5
"""Of what m0 writes wherever a token has TOK."""
SKIPS = {("a0.h0", "a3.h0<v>"), ("a1.h0", "m3"), ("a1.h1", "logits")}
EDGES = SKIPS | {
    ("input", "a0.h0<v>"),
    ("input", "a0.h1<v>"),
    ("input", "a1.h0<v>"),
    ("a0.h1", "a1.h1<v>"),
    ("a0.h1", "a3.h1<v>"),
    ("a0.h2", "a1.h2<v>"),
    ("a0.h2", "a2.h2<v>"),
    ("a1.h2", "a2.h2<v>"),
    ("a3.h0", "logits"),
    ("a3.h1", "logits"),
    ("m3", "logits"),
}
"""Direct paths that change the answer."""
CANCELLING = {("a0.h2", "a1.h2<v>"), ("a0.h2", "a2.h2<v>"), ("a1.h2", "a2.h2<v>")}
"""Of these, what is written and its erasing: without all of them the answer is the same."""
ERASER, ERASED = "a1.h2", "a0.h2"
PLANTED_LOGIT = sum(gain for room, gain in WRITES.values() if room == "OUT")
"""Of the subject, all else having 0."""


def prompt(subject: int, words: int = 3) -> list[int]:
    """START, a subject, some words, QUERY."""
    return [START, SUBJECT_IDS[subject], *(WORD_IDS[index % WORDS] for index in range(words)), QUERY]


def routes(length: int) -> set[tuple[int, int, int]]:
    """Layer, query and key of all that attention moves: at QUERY, from the subject and from QUERY itself."""
    last = length - 1
    return {(0, last, 1), (1, last, 1), (1, last, last), (3, last, last)}


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    embedded = np.zeros((VOCABULARY, STREAM.d_model))
    embedded[:, STREAM.plus], embedded[:, STREAM.minus] = STREAM.pad, -STREAM.pad
    for index, token in enumerate([*SUBJECT_IDS, *WORD_IDS]):
        embedded[token, STREAM["TOK"].start + index] = 1
    embedded[SUBJECT_IDS, STREAM["SUBJECT"]] = 1
    embedded[START, STREAM["START"]] = 1
    embedded[:, STREAM["OTHER"]] = 1
    embedded[QUERY, STREAM["OTHER"]] = 0
    embedded[QUERY, STREAM["QUERY"]] = 1
    everywhere = np.eye(TOKENS)
    mlps = {
        0: [Mlp("TOK", "NOISE", NOISE_NORM * everywhere)],
        3: [Mlp("LATE", "OUT", WRITES["m3"][1] / WRITES["a1.h0"][1] * everywhere)],
    }
    return planted.save_llama(folder, STREAM, embedded, _layers(), mlps, NEURONS)


def _layers() -> list[list[Head]]:
    layers = [[_idle() for _ in range(HEADS)] for _ in range(LAYERS)]
    tokens = np.eye(TOKENS)

    def writes(name: str, source: str, key: str, read: float) -> None:
        """A head that looks at a key from QUERY, and writes what it reads there as `WRITES` says."""
        target, gain = WRITES[name]
        how: Matrix = (gain / read if gain else 1.0) * tokens
        layer, head = int(name[1]), int(name[4])
        layers[layer][head].looks("QUERY", key, np.ones((1, 1)), _SHARPNESS).copies(source, target, how)

    for head in range(4):
        writes(f"a0.h{head}", "TOK", "SUBJECT", 1.0)
    writes("a1.h0", "TOK", "SUBJECT", 1.0)
    writes("a1.h1", "MID", "QUERY", WRITES["a0.h1"][1])
    writes("a1.h2", "ERASED", "QUERY", WRITES["a0.h2"][1])
    writes("a2.h2", "ERASED", "QUERY", 1.0)
    writes("a3.h0", "SKIP", "QUERY", WRITES["a0.h0"][1])
    writes("a3.h1", "MID", "QUERY", WRITES["a0.h1"][1])
    return layers


def _idle() -> Head:
    """A head that looks at START, but from QUERY where it is told to look elsewhere."""
    return STREAM.head().looks("OTHER", "START", np.ones((1, 1)), _SHARPNESS)
