"""A pair of prompts and what its cells may refer to: the rows of one small request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2

CLEAN, CORRUPTED, FIRST_REFERENCE = 0, 1, 2
RUNS = (pb.SWEPT_RUN_CLEAN, pb.SWEPT_RUN_CORRUPTED)
"""The runs of the contract, by row."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """An edit that makes the corrupted run.

    Args:
        edit: of the request, or made of its noise.
        path: where it stands there.
    """

    edit: intervention_pb2.Intervention
    path: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The prompts of a pair as the model reads them.

    Rows of a pair: 0 the clean prompt, 1 the corrupted one, then the references, then the two means over them.

    Args:
        index: of the pair.
        clean: token ids.
        corrupted: token ids; None: there is no such prompt.
        references: token ids of each.
        edited_row: CLEAN or CORRUPTED.
        corruptions: edits of the corrupted run.
    """

    index: int
    clean: Sequence[int]
    corrupted: Sequence[int] | None
    references: Sequence[Sequence[int]]
    edited_row: int
    corruptions: Sequence[Corruption] = ()

    @property
    def edited(self) -> Sequence[int]:
        """Token ids of the run that is edited."""
        return self.prompt(self.edited_row)

    @property
    def length(self) -> int:
        """Tokens of the run that is edited."""
        return len(self.edited)

    @property
    def mean_row(self) -> int:
        """The row that stands for the mean over references and positions."""
        return FIRST_REFERENCE + len(self.references)

    @property
    def mean_by_position_row(self) -> int:
        """The row that stands for the mean over references at each position."""
        return self.mean_row + 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row; of means those of the edited run, of a prompt that there is not those of the other."""
        corrupted = self.clean if self.corrupted is None else self.corrupted
        prompts = (self.clean, corrupted, *self.references, self.edited, self.edited)
        return [len(prompt) for prompt in prompts]

    def prompt(self, row: int) -> Sequence[int]:
        """Token ids of a row that is a prompt."""
        if row == CLEAN:
            return self.clean
        if row == CORRUPTED:
            if self.corrupted is None:
                raise AssertionError("a row that there is not is refused before anything runs")
            return self.corrupted
        return self.references[row - FIRST_REFERENCE]

    def name(self, row: int) -> str:
        """What a row is called in errors."""
        if row < FIRST_REFERENCE:
            return ("the clean prompt", "the corrupted prompt")[row]
        return f"reference {row - FIRST_REFERENCE}" if row < self.mean_row else "the mean over the references"
