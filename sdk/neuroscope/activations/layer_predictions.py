"""What every layer's residual stream would predict: the logit lens over one prompt, as the service computed it.

nostalgebraist, "interpreting GPT: the logit lens" (2020). The model's own final norm and unembedding are applied to the
residual stream before the first layer and behind each, so the last one is the model's own prediction.

    seen = client.logit_lens("The capital of Norway is", tokens=[" Oslo"])
    seen.ranks[:, -1, 0]                          rank of " Oslo" at the last position, from the embedding up
    seen.emergence(0)                             from which point on it stays the likeliest, at every position
    seen.table()                                  the likeliest tokens of every layer at the last position
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
from neuroscope.vocabulary.sites import Point

if TYPE_CHECKING:
    from rich.table import Table

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LayerPredictions(Displayable):
    """The lens's results; the axes are points (from the embedding up), positions, and what the name says."""

    model_id: str
    points: tuple[Point, ...]
    """resid_pre of the first layer, then resid_post of every layer."""
    positions: tuple[int, ...]
    """Absolute positions."""
    token_ids: tuple[int, ...]
    """The token that is read at each of these positions."""
    requested_token_ids: tuple[int, ...]
    """Tokens that the lens was asked for."""
    top_token_ids: Int32Array
    """(points, positions, k), likeliest first."""
    top_log_probabilities: Float32Array
    """(points, positions, k), natural."""
    log_probabilities: Float32Array
    """(points, positions, tokens asked for), natural."""
    ranks: Int32Array
    """(points, positions, tokens asked for): how many tokens are likelier."""
    kl: Float32Array
    """(points, positions): KL(model || lens) in nats; 0 at the last point."""
    texts: Mapping[int, str]
    """Text of every token id in here."""

    def __repr__(self) -> str:
        sizes = f"{len(self.points)} points, {len(self.positions)} positions, top {self.top_token_ids.shape[2]}"
        return f"LayerPredictions({self.model_id}: {sizes}; table() and plot() show them)"

    def emergence(self, token: int = 0) -> list[Point | None]:
        """For every position the first point from which on a token stays the likeliest; None: it is not, in the end.

        Args:
            token: which of the tokens that were asked for.
        """
        found: list[Point | None] = []
        for ranks in self.ranks[:, :, token].T:
            others = np.flatnonzero(ranks)
            first = int(others[-1]) + 1 if others.size else 0
            found.append(self.points[first] if first < len(self.points) else None)
        return found

    def table(self, position: int = -1) -> Table:
        """The likeliest tokens of every point at one position.

        Args:
            position: index into `positions`, negative from the end.
        """
        return show(self, "table", position)

    def plot(self, path: str | Path | None = None) -> Any:
        """A picture: the likeliest token of every point at every position; gives the figure of matplotlib.

        Args:
            path: where it is written as well; the ending names the format.
        """
        return show(self, "picture", path)
