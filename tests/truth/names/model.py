"""The weights of a circuit that names the one who was named once, written by hand: indirect object identification.

The residual stream (192) has subspaces BOS, NAME and END of one dimension each (the beginning, any name, the last
word), TOK and POS for what the embeddings say, SEEN for a name that was there before, STOP for one that is not to be
moved, OUT for what is read as logits, and JUNK for what nobody reads.

    head   decoy      attends to                                        the head copies
    0.0               the same token before; else the beginning         TOK to SEEN        duplicate token
    1.0    1.1        from the end to what is SEEN; else the beginning   SEEN to STOP       S-inhibition
    2.0    2.1, 2.2   from the end to names that are not to STOP         TOK to OUT         name mover

Decoy 1.1 copies to JUNK. Decoy 2.1 copies to OUT, and so faintly that nothing comes of it; 2.2 copies to JUNK.
"""

from pathlib import Path

import numpy as np

from tests.support.byte_bpe import BOS_ID
from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, SHARPNESS, Head, Stream

NAMES, WORDS = 8, 7
TOKENS = NAMES + WORDS + 1  # and the last word
POSITIONS, JUNK_WIDTH = 12, 16
LAYERS, HEADS, D_HEAD = 3, 3, 64
STREAM = Stream(
    HEADS,
    D_HEAD,
    {
        "BOS": 1,
        "NAME": 1,
        "END": 1,
        "TOK": TOKENS,
        "POS": POSITIONS,
        "SEEN": TOKENS,
        "STOP": TOKENS,
        "OUT": TOKENS,
        "JUNK": JUNK_WIDTH,
    },
    pad=256.0,
)
LAST_WORD = FIRST_TOKEN + TOKENS - 1

NAME_MOVER, S_INHIBITION, DUPLICATE = (2, 0), (1, 0), (0, 0)
DECOYS = {"name_mover": {(2, 1)}, "s_inhibition": {(1, 1)}}
"""Heads that have a role's score and no effect."""
INTERACTIONS = {"a0.h0 -> a1.h0<k>", "a0.h0 -> a1.h0<v>", "a1.h0 -> a2.h0<q>", "a2.h0 -> logits"}
"""Paths that a change of names travels."""
CIRCUIT = {
    *(("input", f"a0.h0<{part}>") for part in "qkv"),
    *(("a0.h0", f"a1.h0<{part}>") for part in "kv"),
    ("a1.h0", "a2.h0<q>"),
    *(("input", f"a2.h0<{part}>") for part in "kv"),
    ("a2.h0", "logits"),
}
"""Edges that a change of names travels."""
GAIN = 8.0
"""Logit of the name that is moved."""
SWAPPED = {
    ("input", "a0.h0<q>"): -2 * GAIN,
    ("a0.h0", "a1.h0<v>"): -2 * GAIN,
    ("a1.h0", "a2.h0<q>"): -2 * GAIN,
    ("a2.h0", "logits"): -2 * GAIN,
    ("input", "a2.h0<k>"): -GAIN,
}
"""Edges that a swap of the third name travels, and what each alone does to the logit difference.

From the third name a0.h0 looks for the other one, so that SEEN, and STOP, hold that: the name mover then moves the one
that is no answer. Where the head looks from nothing else reads: its own key and value have no attention there, by
position. That a name was there before is as true, so the keys of a1.h0 stay. The third name's key alone, which STOP no
longer holds off, has half of the name mover's attention, and its value is still the subject.
"""
REDUNDANT = {("input", "a2.h0<k>")}
"""Of these, what does nothing where the value goes with it: the third name that is then moved is the answer."""
COMPOSITIONS = {
    *(("k", DUPLICATE, (1, head)) for head in (0, 1)),
    *(("v", DUPLICATE, (1, head)) for head in (0, 1)),
    *(("q", S_INHIBITION, (2, head)) for head in (0, 1, 2)),
}
"""Kind, writer and reader of every pair of heads that share a subspace; decoys read what is written for others."""


def build(folder: Path, sharpness: float = SHARPNESS) -> Path:
    """Writes the model and gives its folder, made if missing.

    Args:
        folder: where.
        sharpness: scores of what heads look for, all else having 0: the less, the softer their attention.
    """
    written: dict[int, dict[str, int]] = {}
    for token in range(TOKENS):
        kind = {"NAME": 0} if token < NAMES else {"END": 0} if token == TOKENS - 1 else {}
        written[FIRST_TOKEN + token] = {"TOK": token, "OUT": token, **kind}
    wte, wpe = planted.embeddings(STREAM, POSITIONS, {BOS_ID: {"BOS": 0}, **written})
    return planted.save(folder, STREAM, wte, wpe, _layers(sharpness), prepends_bos=True)


def _layers(sharpness: float) -> list[list[Head]]:
    layers = [[STREAM.head() for _ in range(HEADS)] for _ in range(LAYERS)]
    random = np.random.default_rng(0)
    tokens, junk = np.eye(TOKENS), random.standard_normal((TOKENS, JUNK_WIDTH)) * 0.5
    duplicate = layers[0][0].looks("TOK", "TOK", tokens, sharpness).looks("POS", "POS", -np.eye(POSITIONS), sharpness)
    duplicate.looks("POS", "BOS", np.full((POSITIONS, 1), 0.5), sharpness).copies("TOK", "SEEN", tokens)
    for head, (target, how) in enumerate((("STOP", tokens), ("JUNK", junk))):
        looking = layers[1][head].looks("END", "SEEN", np.ones((1, TOKENS)), sharpness)
        looking.looks("END", "BOS", np.full((1, 1), 0.5), sharpness).copies("SEEN", target, how)
    for head, (target, how) in enumerate((("OUT", GAIN * tokens), ("OUT", 1e-4 * tokens), ("JUNK", junk))):
        looking = layers[2][head].looks("END", "NAME", np.ones((1, 1)), sharpness)
        looking.looks("STOP", "TOK", -tokens, sharpness).copies("TOK", target, how)
    return layers
