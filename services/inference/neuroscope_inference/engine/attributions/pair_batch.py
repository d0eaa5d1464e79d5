"""Pairs of equally long prompts that run as rows of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope_inference.engine.sweeps.metrics import Metric, ScoreReference
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Pair


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Some pairs.

    Args:
        pairs: at least one; their edited runs are equally long, and the other ones too, if there are any.
        metric: how runs are scored.
    """

    pairs: Sequence[Pair]
    metric: Metric

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.pairs)

    @property
    def length(self) -> int:
        """Tokens of the edited runs."""
        return self.pairs[0].length

    @property
    def edited_row(self) -> int:
        """CLEAN or CORRUPTED."""
        return self.pairs[0].edited_row

    @property
    def other_row(self) -> int:
        """The other one of the two."""
        return CORRUPTED if self.edited_row == CLEAN else CLEAN

    def tokens(self, row: int) -> mx.array:
        """Token ids of one of the two runs of all pairs (rows, positions)."""
        return mx.array([list(pair.prompt(row)) for pair in self.pairs])

    def score(self, row: int, clean_end: mx.array | None) -> Callable[[mx.array], mx.array]:
        """The metric of runs: the mean over its positions.

        Args:
            row: which of the two runs of each pair they are.
            clean_end: the end of the clean runs, where these are not they themselves.
        """

        def scored(end: mx.array) -> mx.array:
            values: list[mx.array] = []
            for index, pair in enumerate(self.pairs):
                places = self.metric.places(len(pair.prompt(row)))
                clean = None if clean_end is None else clean_end[index : index + 1]
                at = ScoreReference(pair, row, places, clean)
                values.append(self.metric.scores(end[index : index + 1], at).mean(axis=1))
            return mx.concatenate(values)

        return scored

    def halves(self) -> tuple[PairBatch, PairBatch] | None:
        """Two smaller batches; None of a single pair."""
        middle = len(self.pairs) // 2
        if not middle:
            return None
        return PairBatch(self.pairs[:middle], self.metric), PairBatch(self.pairs[middle:], self.metric)


def pair_batches(pairs: Sequence[Pair], metric: Metric, most_rows: Callable[[int], int]) -> Iterator[PairBatch]:
    """Pairs of equal length together, in the order of the first of each length.

    Args:
        pairs: all of them.
        metric: how runs are scored.
        most_rows: of prompts of so many tokens.
    """
    by_lengths: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        by_lengths.setdefault(tuple(pair.lengths), []).append(pair)
    for lengths, alike in by_lengths.items():
        most = most_rows(max(lengths))
        for first in range(0, len(alike), most):
            yield PairBatch(alike[first : first + most], metric)
