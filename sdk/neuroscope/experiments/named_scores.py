"""The base of sweep and attribution results: scores by name, stored as JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import Displayable
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.criteria import CriterionLike
from neuroscope.experiments.scores import Scores
from neuroscope.experiments.stored_request import read_object

if TYPE_CHECKING:
    pass


class NamedScores(Displayable, ABC):
    """A result with several `Scores`. If there is only one, its attributes are available on the result itself."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the scores, in the order of the request."""

    @abstractmethod
    def _scores(self, index: int) -> Scores: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The result as JSON. float32 values are exact."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`.

        Raises:
            InvalidRequestError: a field is missing or malformed.
        """

    def __getitem__(self, name: str) -> Scores:
        if name not in self.names:
            raise InvalidRequestError(f"the result has nothing of the name {name!r}", field="name", valid=self.names)
        return self._scores(self.names.index(name))

    def __iter__(self) -> Iterator[Scores]:
        return (self[name] for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def scores(self) -> Scores:
        """The only scores.

        Raises:
            InvalidRequestError: the result has several; select one by name.
        """
        if len(self.names) != 1:
            raise InvalidRequestError(f"the result has several, name one: {', '.join(self.names)}", field="name")
        return self._scores(0)

    @property
    def values(self) -> NDArray[np.float32]:
        """The only scores' values."""
        return self.scores.values

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the only scores' axes."""
        return self.scores.dims

    @property
    def coords(self) -> Mapping[str, Sequence[Any]]:
        """Coordinates of the only scores' axes."""
        return self.scores.coords

    def by(self, criterion: CriterionLike) -> Scores:
        """The only scores by a criterion; see `Scores.by`."""
        return self.scores.by(criterion)

    def normalised(self) -> Scores:
        """The only scores, normalised; see `Scores.normalised`."""
        return self.scores.normalised()

    def to_dataframe(self) -> Any:
        """The only scores as a pandas DataFrame."""
        return self.scores.to_dataframe()

    def plot(self, path: str | Path | None = None) -> Any:
        """The only scores as a matplotlib figure; see `Scores.plot`."""
        return self.scores.plot(path)

    def save(self, path: str | Path) -> None:
        """Writes a JSON file. The result may be incomplete."""
        Path(path).write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a file written by `save`.

        Raises:
            InvalidRequestError: the file has other content.
        """
        return cls.from_json(read_object(path))


def unique_names(names: Iterable[str]) -> list[str]:
    """Makes names unique: the second of the same name ends with #2."""
    found: list[str] = []
    for name in names:
        count = sum(known.split("#")[0] == name for known in found)
        found.append(f"{name}#{count + 1}" if count else name)
    return found


def to_json_values(values: NDArray[np.float32]) -> list[float | None]:
    """Values as a JSON list; NaN is null."""
    return [float(value) if np.isfinite(value) else None for value in values]


def from_json_values(values: Iterable[float | None]) -> NDArray[np.float32]:
    """Reads the result of `to_json_values`."""
    return np.array([np.nan if value is None else value for value in values], np.float32)
