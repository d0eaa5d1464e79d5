"""The active features at each position of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import Displayable, show
from neuroscope.optional_import import optional_import
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class FeatureActivations(Displayable):
    """The most active features at the positions of one prompt."""

    dictionary: pb.Dictionary
    positions: tuple[int, ...]
    """Absolute positions."""
    token_ids: tuple[int, ...]
    """Token id at each position."""
    texts: Mapping[int, str]
    """Text of each token id."""
    values: Float32Array
    """Activations (positions, top), most active first; 0 if fewer features are active."""
    indices: Int32Array
    """Feature indices (positions, top); -1 if fewer features are active."""
    l0: Int32Array
    """Number of active features (positions,)."""
    squared_errors: Float32Array
    """Squared norm of the reconstruction error (positions,)."""
    squared_norms: Float32Array
    """Squared norm of the activation (positions,)."""
    squared_mean: float
    """Squared norm of the mean activation over these positions."""

    def __repr__(self) -> str:
        return (
            f"FeatureActivations({self.dictionary.dictionary_id}: {counted(len(self.positions), 'position')}, "
            f"top {self.values.shape[1]}, FVU {self.fvu:.3f}; table() and plot() show them)"
        )

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the axes of values and indices."""
        return "position", "rank"

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained over these positions; NaN for a single position."""
        variance = float(self.squared_norms.sum(dtype=np.float64)) - len(self.positions) * self.squared_mean
        return float(self.squared_errors.sum(dtype=np.float64)) / variance if len(self.positions) > 1 else float("nan")

    def active(self, position: int | None = None) -> list[int]:
        """The active features at a position, or at any position, most active first.

        Args:
            position: index into `positions`, negative from the end; None for all.
        """
        values, indices = self.values, self.indices
        if position is not None:
            values, indices = values[position], indices[position]
        order = np.argsort(-values, axis=None, kind="stable")
        listed = (int(feature) for feature in indices.reshape(-1)[order])
        return list(dict.fromkeys(feature for feature in listed if feature >= 0))

    def of(self, feature: int) -> Float32Array:
        """Activation of a feature (positions,); 0 if it is not among the most active."""
        return np.where(self.indices == feature, self.values, 0).sum(axis=1, dtype=np.float32)

    def records(self) -> Iterator[dict[str, Any]]:
        """Rows of a table: every active feature at every position."""
        for place, (position, token_id) in enumerate(zip(self.positions, self.token_ids, strict=True)):
            for feature, value in zip(self.indices[place], self.values[place], strict=True):
                if feature >= 0:
                    token = self.texts.get(token_id, "")
                    yield {"position": position, "token": token, "feature": int(feature), "value": float(value)}

    def to_dataframe(self) -> Any:
        """`records` as a pandas DataFrame.

        Raises:
            InvalidRequestError: pandas is not installed.
        """
        return optional_import("pandas", "to_dataframe").DataFrame(self.records())

    def table(self, count: int = 8) -> Table:
        """The `count` most active features at every position."""
        return show(self, "table", count)

    def plot(self, path: str | Path | None = None, count: int = 24) -> Any:
        """A matplotlib figure: the activations of the most active features over positions.

        Args:
            path: file to write; the suffix selects the format.
            count: number of features.
        """
        return show(self, "picture", path, count)
