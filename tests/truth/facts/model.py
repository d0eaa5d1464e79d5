"""A llama that recalls facts, written by hand: a subject and a relation make an object.

A prompt is START, a relation, a word, a subject, two words, and QUERY.

    component   at            reads                       writes
    a0.h0       the subject   the relation's token        REL
    m1          the subject   SUBJ and REL                FACT      the table: a neuron for each fact
    a2.h0       QUERY         FACT of the subject         OUT       which logits read
    a0.h1       the subject   the relation's token        JUNK      a decoy with a0.h0's pattern
    a1.h0       QUERY         the subject's token         JUNK      another one
    m2          the subject   SUBJ and REL                JUNK      a table of m1's norm that nobody reads
    a2.h1       QUERY         FACT of the subject         JUNK      a decoy with a2.h0's pattern
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.truth import planted
from tests.truth.planted import FIRST_TOKEN, VOCABULARY, Head, Lookup, Stream

SUBJECTS, RELATIONS, OBJECTS, WORDS = 8, 3, 12, 4
HEADS, D_HEAD, LAYERS, NEURONS = 4, 32, 3, 64
START, QUERY = 500, 501
_SHARPNESS = 40.0
FLAGS = ("START", "QUERY", "IS_SUBJ", "IS_REL", "NOT_SUBJ", "NOT_QUERY")
STREAM = Stream(
    HEADS,
    D_HEAD,
    {
        **dict.fromkeys(FLAGS, 1),
        "SUBJ": SUBJECTS,
        "TOK": RELATIONS,
        "REL": RELATIONS,
        **dict.fromkeys(("FACT", "JUNK", "OUT"), OBJECTS),
    },
    pad=4096.0,
    is_balanced=False,
)
OBJECT_IDS = [FIRST_TOKEN + index for index in range(OBJECTS)]
SUBJECT_IDS = [FIRST_TOKEN + OBJECTS + index for index in range(SUBJECTS)]
RELATION_IDS = [SUBJECT_IDS[-1] + 1 + index for index in range(RELATIONS)]
WORD_IDS = [RELATION_IDS[-1] + 1 + index for index in range(WORDS)]
SUBJECT_POSITION, TABLE_LAYER = 3, 1
GAIN = 6.0
"""Logit of the object, all else having 0."""

CIRCUIT = {
    ("input", "a0.h0<v>"),
    ("a0.h0", "m1"),
    ("input", "m1"),
    ("m1", "a2.h0<v>"),
    ("a2.h0", "logits"),
}
"""Edges that a change of the subject, or of the relation, travels."""


def fact(subject: int, relation: int) -> int:
    """The object: four of them belong to each relation."""
    return 4 * relation + (subject + subject // 4) % 4


def prompt(subject: int, relation: int, words: int = 0) -> list[int]:
    """START, the relation, a word, the subject, two words, QUERY."""
    one, two, three = (WORD_IDS[(words + index) % WORDS] for index in range(3))
    return [START, RELATION_IDS[relation], one, SUBJECT_IDS[subject], two, three, QUERY]


def pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Prompts, each beside one of another subject or of another relation, whose object is another one."""
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        subject, relation, words = (int(random.integers(most)) for most in (SUBJECTS, RELATIONS, WORDS))
        other = (
            (int(random.integers(SUBJECTS)), relation) if len(found) % 2 else (subject, int(random.integers(RELATIONS)))
        )
        if fact(*other) == fact(subject, relation):
            continue
        found.append(
            {
                "clean": prompt(subject, relation, words),
                "corrupted": prompt(*other, words),
                "answer": OBJECT_IDS[fact(subject, relation)],
                "other": OBJECT_IDS[fact(*other)],
            }
        )
    return found


def build(folder: Path) -> Path:
    """Writes the model and gives its folder, made if missing."""
    embedded = np.zeros((VOCABULARY, STREAM.d_model))
    embedded[:, STREAM.plus], embedded[:, STREAM.minus] = STREAM.pad, -STREAM.pad
    for room, flag, ids in (("SUBJ", "IS_SUBJ", SUBJECT_IDS), ("TOK", "IS_REL", RELATION_IDS)):
        embedded[ids, STREAM[room]] = np.eye(len(ids))
        embedded[ids, STREAM[flag]] = 1
    embedded[:, STREAM["NOT_SUBJ"]] = embedded[:, STREAM["NOT_QUERY"]] = 1
    embedded[SUBJECT_IDS, STREAM["NOT_SUBJ"]] = 0
    embedded[QUERY, STREAM["NOT_QUERY"]] = 0
    embedded[START, STREAM["START"]], embedded[QUERY, STREAM["QUERY"]] = 1, 1
    table = {
        (subject, relation): fact(subject, relation) for subject in range(SUBJECTS) for relation in range(RELATIONS)
    }
    mlps = {1: [Lookup("SUBJ", "REL", "FACT", table)], 2: [Lookup("SUBJ", "REL", "JUNK", table)]}
    return planted.save_llama(folder, STREAM, embedded, _layers(), mlps, NEURONS)


def _layers() -> list[list[Head]]:
    layers = [[_idle() for _ in range(HEADS)] for _ in range(LAYERS)]
    relations, objects = np.eye(RELATIONS), np.eye(OBJECTS)

    def from_subject(key: str) -> Head:
        return _looking("NOT_SUBJ", "IS_SUBJ", key)

    def from_query(key: str) -> Head:
        return _looking("NOT_QUERY", "QUERY", key)

    layers[0][0] = from_subject("IS_REL").copies("TOK", "REL", relations)
    layers[0][1] = from_subject("IS_REL").copies("TOK", "JUNK", np.eye(RELATIONS, OBJECTS))
    layers[1][0] = from_query("IS_SUBJ").copies("SUBJ", "JUNK", np.eye(SUBJECTS, OBJECTS))
    layers[2][0] = from_query("IS_SUBJ").copies("FACT", "OUT", GAIN * objects)
    layers[2][1] = from_query("IS_SUBJ").copies("FACT", "JUNK", GAIN * objects)
    return layers


def _looking(others: str, query: str, key: str) -> Head:
    """A head that looks at a key from one kind of token, and at START, where nothing is, from all others."""
    one = np.ones((1, 1))
    return STREAM.head().looks(others, "START", one, _SHARPNESS).looks(query, key, one, _SHARPNESS)


def _idle() -> Head:
    return _looking("NOT_QUERY", "QUERY", "START")
