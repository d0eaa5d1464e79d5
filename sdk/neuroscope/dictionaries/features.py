"""Which features are active at each position of a prompt."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.calls import requests
from neuroscope.calls.call import Capturing, Steps
from neuroscope.dictionaries.dictionary import Dictionary
from neuroscope.errors import InvalidRequestError
from neuroscope.hooks import Hook
from neuroscope.interventions import InterventionLike
from neuroscope.prompts import PromptLike
from neuroscope.selection import Positions
from neuroscope.v1 import dictionary_pb2 as pb

if TYPE_CHECKING:
    from rich.table import Table

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
_TOP, _INDICES = "top_features", "top_features_indices"
_L0, _ERROR, _NORM = "features_l0", "features_squared_error", "features_squared_norm"
_MEAN = "mean of what is reconstructed"


@dataclass(frozen=True, slots=True)
class FeatureActivations:
    """The most active features at positions of one prompt."""

    dictionary: pb.Dictionary
    positions: tuple[int, ...]
    """Absolute positions."""
    token_ids: tuple[int, ...]
    """The token that is read at each of these positions."""
    texts: Mapping[int, str]
    """Text of every one of them."""
    values: Float32Array
    """(positions, top), most active first; 0 where fewer are active."""
    indices: Int32Array
    """(positions, top): which feature; -1 where fewer are active."""
    l0: Int32Array
    """(positions,): how many features are active, among all."""
    squared_errors: Float32Array
    """(positions,): squared norm of what the reconstruction misses."""
    squared_norms: Float32Array
    """(positions,): squared norm of what is reconstructed."""
    squared_mean: float
    """Squared norm of the mean of what is reconstructed, over these positions."""

    @property
    def dims(self) -> tuple[str, str]:
        """Names of the axes of values and indices."""
        return "position", "rank"

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained over these positions: the squared error over the squared distance from their
        mean. NaN of a single position, which has no variance."""
        variance = float(self.squared_norms.sum(dtype=np.float64)) - len(self.positions) * self.squared_mean
        return float(self.squared_errors.sum(dtype=np.float64)) / variance if len(self.positions) > 1 else float("nan")

    def active(self, position: int | None = None) -> list[int]:
        """Features among these that are active at a position, or at any; most active first.

        Args:
            position: index into `positions`, negative from the end; None: all.
        """
        values, indices = self.values, self.indices
        if position is not None:
            values, indices = values[position], indices[position]
        order = np.argsort(-values, axis=None, kind="stable")
        listed = (int(feature) for feature in indices.reshape(-1)[order])
        return list(dict.fromkeys(feature for feature in listed if feature >= 0))

    def of(self, feature: int) -> Float32Array:
        """(positions,): one feature's activation; 0 where it is not among the most active."""
        return np.where(self.indices == feature, self.values, 0).sum(axis=1, dtype=np.float32)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every active feature at every position, as a row of a table."""
        for place, (position, token_id) in enumerate(zip(self.positions, self.token_ids, strict=True)):
            for feature, value in zip(self.indices[place], self.values[place], strict=True):
                if feature >= 0:
                    token = self.texts.get(token_id, "")
                    yield {"position": position, "token": token, "feature": int(feature), "value": float(value)}

    def to_dataframe(self) -> Any:
        """`records` as a pandas DataFrame; pandas must be installed."""
        pandas: Any = importlib.import_module("pandas")
        return pandas.DataFrame(self.records())

    def table(self, count: int = 8) -> Table:
        """The most active features at every position, so many of them."""
        from neuroscope.tables import features_table

        return features_table(self, count)

    def plot(self, path: str | Path | None = None, count: int = 24) -> Any:
        """A picture: the most active features over the positions; gives the figure of matplotlib.

        Args:
            path: where it is written as well; the ending names the format.
            count: features that are shown.
        """
        from neuroscope.viz.features_picture import draw

        return draw(self, path, count)

    def __rich__(self) -> Table:
        return self.table()


def steps(
    dictionary: Dictionary,
    prompt: PromptLike,
    *,
    top: int,
    positions: Positions,
    interventions: Sequence[InterventionLike],
    bos: bool | None,
) -> Steps[FeatureActivations]:
    """The calls of `LoadedDictionary.features`, whose arguments these are: one capture, then texts of tokens."""
    if not 1 <= top <= dictionary.feature_count:
        raise InvalidRequestError(f"top is 1 to {dictionary.feature_count}, not {top}", field="top")
    output = dictionary.output
    mean = Hook(
        output.component, output.layer, is_input=output.is_input, hook_id=_MEAN, positions=positions, reduce="mean"
    )
    captured = requests.capture(
        prompt,
        [dictionary.hook(top, l0=True, error=True, positions=positions), mean],
        model_id=dictionary.description.model_id,
        hook_ids=(),
        interventions=interventions,
        bos=bos,
        stop_at_layer=None,
        chunk_budget_bytes=0,
    )
    cache = yield from Capturing(captured)
    if len(cache.token_ids) != 1:
        raise InvalidRequestError(f"features are of one prompt, not of {len(cache.token_ids)}", field="prompt")
    named = f"{dictionary.point}:{_TOP}"
    places = [int(position) for position in cache.positions(named)]
    read = [cache.token_ids[0][position] for position in places]
    shown = sorted(set(read))
    spelt = yield from requests.tokenize(shown, model_id=dictionary.description.model_id, bos=None)

    def part(name: str) -> Any:
        return cache[f"{dictionary.point}:{name}"][0]

    averaged = np.asarray(cache[_MEAN][0], np.float64)
    return FeatureActivations(
        dictionary.description,
        tuple(places),
        tuple(read),
        dict(zip(shown, spelt.tokens, strict=True)),
        part(_TOP),
        part(_INDICES),
        part(_L0),
        part(_ERROR),
        part(_NORM),
        float(np.square(averaged).sum()),
    )
