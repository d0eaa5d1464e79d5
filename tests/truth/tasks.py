"""The planted models whose circuits are known, as tasks of one form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.truth.addition import model as addition
from tests.truth.facts import model as facts
from tests.truth.induction import model as induction
from tests.truth.induction.prompts import asked
from tests.truth.names import model as names
from tests.truth.names.prompts import named_pairs, swapped_pairs
from tests.truth.residual import model as residual

Edge = tuple[str, str]
Pairs = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A model, prompts, and the edges that their difference travels."""

    name: str
    build: Callable[[Path], Path]
    """Writes the model."""
    pairs: Callable[[int], Pairs]
    """So many {clean, corrupted, answer, other}."""
    circuit: frozenset[Edge]
    """Sender and receiver, as circuits name them."""
    cancelling: frozenset[Edge] = frozenset()
    """Edges of the circuit whose effects cancel, among them or with one outside: without all of them the answer is the
    same."""


def _induction(count: int) -> Pairs:
    return [{name: getattr(each, name) for name in ("clean", "corrupted", "answer", "other")} for each in asked(count)]


def _residual(count: int) -> Pairs:
    found: Pairs = []
    for index in range(count):
        subject, other = index % residual.SUBJECTS, (index * 3 + 1 + index // residual.SUBJECTS) % residual.SUBJECTS
        if subject == other:
            other = (other + 1) % residual.SUBJECTS
        ids = residual.SUBJECT_IDS
        found.append(
            {
                "clean": residual.prompt(subject),
                "corrupted": residual.prompt(other),
                "answer": ids[subject],
                "other": ids[other],
            }
        )
    return found


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "induction",
            induction.build,
            _induction,
            frozenset({("input", "a0.h0<v>"), ("a0.h0", "a1.h0<k>"), ("input", "a1.h0<v>"), ("a1.h0", "logits")}),
        ),
        Task("names", names.build, named_pairs, frozenset(names.CIRCUIT)),
        Task("names-swapped", names.build, swapped_pairs, frozenset(names.SWAPPED), frozenset(names.REDUNDANT)),
        Task("facts", facts.build, facts.pairs, frozenset(facts.CIRCUIT)),
        Task("addition", addition.build, addition.pairs, frozenset(addition.CIRCUIT)),
        Task("residual", residual.build, _residual, frozenset(residual.EDGES), frozenset(residual.CANCELLING)),
    )
}
