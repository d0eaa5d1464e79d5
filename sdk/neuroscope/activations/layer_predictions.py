"""The logit lens over one prompt, computed by the service: what each layer's residual stream would predict.

nostalgebraist, "interpreting GPT: the logit lens" (2020). The model's own final norm and unembedding are applied to the
residual stream before the first layer and after each layer, so the last one is the model's own prediction.

    seen = client.logit_lens("The capital of Norway is", tokens=[" Oslo"])
    seen.ranks[:, -1, 0]                          rank of " Oslo" at the last position, from the embedding up
    seen.emergence(0)                             first point from which it stays the likeliest, by position
    seen.table()                                  likeliest tokens of every layer at the last position
    seen.plot("lens.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import Displayable, show
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.sites import Point

if TYPE_CHECKING:
    from rich.table import Table

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LayerPredictions(Displayable):
    """Results of the logit lens. The first axes are points (from the embedding up) and positions."""

    model_id: str
    points: tuple[Point, ...]
    """resid_pre of the first layer, then resid_post of every layer."""
    positions: tuple[int, ...]
    """Absolute positions."""
    token_ids: tuple[int, ...]
    """Token id at each position."""
    requested_token_ids: tuple[int, ...]
    """Ids of the requested tokens."""
    top_token_ids: Int32Array
    """(points, positions, k), likeliest first."""
    top_log_probabilities: Float32Array
    """Natural logarithms (points, positions, k)."""
    log_probabilities: Float32Array
    """Natural logarithms (points, positions, requested tokens)."""
    ranks: Int32Array
    """Number of likelier tokens (points, positions, requested tokens)."""
    kl: Float32Array
    """KL(model || lens) in nats (points, positions); 0 at the last point."""
    texts: Mapping[int, str]
    """Text of every token id in the results."""

    def __repr__(self) -> str:
        sizes = f"{counted(len(self.points), 'point')}, {counted(len(self.positions), 'position')}"
        top = self.top_token_ids.shape[2]
        return f"LayerPredictions({self.model_id}: {sizes}, top {top}; table() and plot() show them)"

    def emergence(self, token: int = 0) -> list[Point | None]:
        """For each position, the first point from which a token stays the likeliest; None if it never does.

        Args:
            token: index into the requested tokens.
        """
        found: list[Point | None] = []
        for ranks in self.ranks[:, :, token].T:
            others = np.flatnonzero(ranks)
            first = int(others[-1]) + 1 if others.size else 0
            found.append(self.points[first] if first < len(self.points) else None)
        return found

    def table(self, position: int = -1) -> Table:
        """Likeliest tokens of every point at one position.

        Args:
            position: index into `positions`, negative from the end.
        """
        return show(self, "table", position)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: the likeliest token of every point and position.

        Args:
            path: file to write; the suffix selects the format.
        """
        return show(self, "picture", path)
