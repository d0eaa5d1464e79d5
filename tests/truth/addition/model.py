"""A llama that adds two numbers mod 11, written by hand from Fourier features (Nanda et al. 2023, arXiv:2301.05217).

A prompt is START, a first operand, PLUS, a second operand, EQUALS. A number n is cos(w n) and sin(w n) at three
frequencies; first and second operands are tokens of their own, as numbers with and without a space before them are.

    component   at       reads                          writes
    a0.h0       EQUALS   the first operand              A
    a0.h1       EQUALS   the second operand             B
    m1          EQUALS   A and B                        OUT     cos and sin of w (a + b), by products
    a0.h2       EQUALS   the first operand              JUNK    a decoy with a0.h0's pattern
    m0          always   the features of its own token  JUNK    another one
    m2          EQUALS   A and B                        JUNK    products that nobody reads
    a1.h0       EQUALS   the second operand             JUNK    a decoy

A logit is the sum over frequencies of cos(w (a + b - c)): the unembedding has the features of c.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, VOCABULARY, Head, Matrix, Mlp, Products, Stream

MODULUS, FREQUENCIES = 11, (1, 2, 4)
WIDTH = 2 * len(FREQUENCIES)
HEADS, D_HEAD, LAYERS, NEURONS = 4, 32, 3, 32
START, PLUS, EQUALS = 500, 501, 502
FIRST_IDS = [FIRST_TOKEN + number for number in range(MODULUS)]
SECOND_IDS = [FIRST_TOKEN + MODULUS + number for number in range(MODULUS)]
GAIN = 4.0
_SHARPNESS = 40.0
FLAGS = ("START", "EQUALS", "NOT_EQUALS", "IS_FIRST", "IS_SECOND")
STREAM = Stream(
    HEADS,
    D_HEAD,
    {
        **dict.fromkeys(FLAGS, 1),
        **dict.fromkeys(("NUMBER", "A", "B", "JUNK", "OUT"), WIDTH),
    },
    pad=4096.0,
    is_balanced=False,
)

CIRCUIT = {
    ("input", "a0.h0<v>"),
    ("input", "a0.h1<v>"),
    ("a0.h0", "m1"),
    ("a0.h1", "m1"),
    ("m1", "logits"),
}
"""Edges that a change of operands travels."""


def features() -> Matrix:
    """cos and sin of every number at every frequency (number, 2 * frequency)."""
    angles = 2 * np.pi * np.outer(np.arange(MODULUS), FREQUENCIES) / MODULUS
    return np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(MODULUS, WIDTH)


def prompt(first: int, second: int) -> list[int]:
    """START, first, PLUS, second, EQUALS."""
    return [START, FIRST_IDS[first], PLUS, SECOND_IDS[second], EQUALS]


def pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Sums, each beside one with another first operand, another second one, or both."""
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        first, second, other_first, other_second = random.integers(MODULUS, size=4).tolist()
        kind = len(found) % 3
        other = (first if kind == 1 else other_first, second if kind == 0 else other_second)
        answer, wrong = (first + second) % MODULUS, sum(other) % MODULUS
        if answer == wrong or (kind == 2 and (other[0] == first or other[1] == second)):
            continue
        found.append(
            {
                "clean": prompt(first, second),
                "corrupted": prompt(*other),
                "answer": FIRST_IDS[answer],
                "other": FIRST_IDS[wrong],
            }
        )
    return found


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    embedded = np.zeros((VOCABULARY, STREAM.d_model))
    embedded[:, STREAM.plus], embedded[:, STREAM.minus] = STREAM.pad, -STREAM.pad
    for ids, flag in ((FIRST_IDS, "IS_FIRST"), (SECOND_IDS, "IS_SECOND")):
        embedded[ids, STREAM["NUMBER"]] = features()
        embedded[ids, STREAM[flag]] = 1
    embedded[:, STREAM["NOT_EQUALS"]] = 1
    embedded[EQUALS, STREAM["NOT_EQUALS"]] = 0
    embedded[START, STREAM["START"]], embedded[EQUALS, STREAM["EQUALS"]] = 1, 1
    everywhere = np.eye(WIDTH)
    mlps = {
        0: [Mlp("NUMBER", "JUNK", 0.5 * everywhere)],
        1: [Products("A", "B", "OUT", _sums())],
        2: [Products("A", "B", "JUNK", _sums())],
    }
    return planted.save_llama(folder, STREAM, embedded, _layers(), mlps, NEURONS, GAIN * features().T)


def _sums() -> list[tuple[int, int, int, float]]:
    """cos(a + b) = cos cos - sin sin, sin(a + b) = sin cos + cos sin, at every frequency."""
    found: list[tuple[int, int, int, float]] = []
    for cos in range(0, WIDTH, 2):
        sin = cos + 1
        found += [(cos, cos, cos, 1.0), (sin, sin, cos, -1.0), (sin, cos, sin, 1.0), (cos, sin, sin, 1.0)]
    return found


def _layers() -> list[list[Head]]:
    layers = [[_looking("START") for _ in range(HEADS)] for _ in range(LAYERS)]
    numbers = np.eye(WIDTH)
    layers[0][0] = _looking("IS_FIRST").copies("NUMBER", "A", numbers)
    layers[0][1] = _looking("IS_SECOND").copies("NUMBER", "B", numbers)
    layers[0][2] = _looking("IS_FIRST").copies("NUMBER", "JUNK", numbers)
    layers[1][0] = _looking("IS_SECOND").copies("NUMBER", "JUNK", 2.0 * numbers)
    return layers


def _looking(key: str) -> Head:
    """A head that looks at a key from EQUALS, and at START, where nothing is, from all others."""
    one = np.ones((1, 1))
    head = STREAM.head().looks("NOT_EQUALS", "START", one, _SHARPNESS)
    return head.looks("EQUALS", key, one, _SHARPNESS)
