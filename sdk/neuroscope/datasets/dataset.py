"""A dataset: pairs of prompts that fit a model's tokenizer, for experiments and circuit discovery."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from neuroscope.datasets.example import Example, Pair
from neuroscope.datasets.json_lines import read_json_lines
from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.metrics import Metric, logit_diff
from neuroscope.v1 import circuit_pb2, experiment_pb2
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table


class Dataset(Displayable, Sequence[Pair]):
    """Pairs of prompts of equal length with single-token answers.

    Args:
        pairs: the pairs.
        name: name such as ioi; empty for the user's own.
        seed: seed of the generator.
        dropped: number of dropped examples by reason.
        bos: whether prompts were tokenised with a BOS token.
        description: the task, and its source.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        name: str = "",
        seed: int = 0,
        dropped: Mapping[str, int] | None = None,
        bos: bool | None = None,
        description: str = "",
    ) -> None:
        self.pairs = tuple(pairs)
        self.name = name
        self.seed = seed
        self.dropped = dict(dropped or {})
        self.bos = bos
        self.description = description

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Pair | Dataset:
        return self.pairs[index] if isinstance(index, int) else self._with(self.pairs[index])

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clean(self) -> list[Any]:
        """The clean prompts, for any call that takes prompts."""
        return [pair.clean for pair in self.pairs]

    @property
    def corrupted(self) -> list[Any]:
        """The corrupted prompts."""
        return [pair.corrupted for pair in self.pairs]

    def metric(self) -> Metric:
        """The logit difference of answer and other token, at the last position."""
        return logit_diff([pair.answer_id for pair in self.pairs], [pair.other_id for pair in self.pairs])

    def split(self, share: float = 0.5) -> tuple[Dataset, Dataset]:
        """Splits the pairs in two, for example to find a circuit and to evaluate it.

        Args:
            share: share of the pairs in the first part.

        Raises:
            InvalidRequestError: a part would be empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise InvalidRequestError(f"{share} of {len(self)} pairs leaves a part empty", field="share")
        return self[:count], self[count:]

    def messages(self) -> list[experiment_pb2.PromptPair]:
        """The pairs as messages of the contract."""
        return [
            experiment_pb2.PromptPair(
                clean=prompts.to_message(pair.clean, self.bos),
                corrupted=prompts.to_message(pair.corrupted, self.bos),
            )
            for pair in self.pairs
        ]

    def description_message(self) -> circuit_pb2.CircuitDataset:
        """The description that circuits store."""
        return circuit_pb2.CircuitDataset(
            name=self.name,
            seed=self.seed,
            pair_count=len(self),
            dropped_count=sum(self.dropped.values()),
            content_hash=self.content_hash,
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 of all token ids."""
        content = [[pair.clean_ids, pair.corrupted_ids, pair.answer_id, pair.other_id] for pair in self.pairs]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes a JSONL file with one object {clean, corrupted, answer, other} per line."""
        lines = [json.dumps(pair.example.to_json(), ensure_ascii=False) + "\n" for pair in self.pairs]
        Path(path).write_text("".join(lines), encoding="utf-8")

    def table(self) -> Table:
        """The first pairs, and the number of dropped examples."""
        return show(self, "table")

    def __repr__(self) -> str:
        left_out = f", {sum(self.dropped.values())} left out" if self.dropped else ""
        return f"Dataset({self.name or 'of your own'}: {counted(len(self), 'pair')}{left_out})"

    def _with(self, pairs: Sequence[Pair]) -> Dataset:
        return Dataset(
            pairs, name=self.name, seed=self.seed, dropped=self.dropped, bos=self.bos, description=self.description
        )


def read_examples(path: str | Path) -> list[Example]:
    """Reads a JSONL file with one object {clean, corrupted, answer, other} per line.

    Raises:
        InvalidRequestError: as in `read_json_lines`.
    """
    return read_json_lines(path, Example.from_json, "dataset")
