"""Scores of a sweep or an attribution, with named axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.criteria import Criterion, CriterionLike
from neuroscope.experiments.criteria import criterion as to_criterion
from neuroscope.labelled_array import Floats, LabelledArray
from neuroscope.v1 import experiment_pb2 as pb

if TYPE_CHECKING:
    from rich.table import Table

Objects = NDArray[np.object_]
_BASELINES = ("clean", "corrupted", "unedited")


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Generated texts of runs: the contract's `GeneratedText`, or None.

    Args:
        edited: texts of edited runs, in the shape of the values.
        clean: texts of the clean runs (pairs,).
        corrupted: texts of the corrupted runs (pairs,).
        unedited: texts of the edited run without its edit (pairs,).
    """

    edited: Objects
    clean: Objects
    corrupted: Objects
    unedited: Objects

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Texts of the edited runs as str."""
        return np.vectorize(_text_of, otypes=[object])(self.edited)


@dataclass(frozen=True, slots=True, eq=False)
class Scores(LabelledArray):
    """One number for each cell, along named axes. numpy functions accept it.

    Args:
        name: name of what was swept, such as head_output.
        metric: name of the metric.
        values: float32; NaN for patches that were not run.
        dims: names of the axes: pair (if there are several), layer, head, position, unit, feature, sender, receiver or
            cell.
        coords: coordinates by axis.
        clean: metric of the clean run of each pair (pairs,).
        corrupted: metric of the corrupted run (pairs,); NaN if there is none.
        is_normalised: whether values are scaled to 0 for the corrupted run and 1 for the clean run.
        unedited: metric of the edited run without its edit, in units of `values` (pairs,).
        tokens: tokens of the first pair's edited prompt as text; empty if unknown.
        is_change: whether values are changes of the metric, as estimated by gradients, instead of the metric itself.
        texts: generated texts, if the sweep generated.
    """

    metric: str
    clean: Floats
    corrupted: Floats
    is_normalised: bool
    unedited: Floats
    tokens: Sequence[str] = field(default=(), repr=False)
    is_change: bool = False
    texts: Texts | None = field(default=None, repr=False)

    def normalised(self) -> Scores:
        """The scores scaled to 0 for the corrupted run and 1 for the clean run; changes are scaled by their difference.

        Raises:
            InvalidRequestError: a pair has no corrupted run, or both runs have the same metric.
        """
        if self.is_normalised:
            return self
        spread = self.clean - self.corrupted
        if not np.all(np.isfinite(spread)) or np.any(spread == 0):
            raise InvalidRequestError("values are scaled between two runs that score differently", field="normalised")
        zero = self.corrupted
        found = self._scaled(np.zeros_like(zero) if self.is_change else zero, spread, is_normalised=True)
        return replace(found, clean=np.ones_like(zero), corrupted=np.zeros_like(zero)) if self.is_change else found

    def effects(self) -> Scores:
        """The effect of each edit: values minus the metric of the same run without the edit."""
        return self._scaled(self.unedited, np.ones_like(self.unedited), is_normalised=self.is_normalised)

    def by(self, criterion: CriterionLike) -> Scores:
        """Scores by a criterion for the generated texts, instead of the metric.

        Args:
            criterion: a name such as function_call or contains:Paris, or a function (text, token ids) -> score.

        Raises:
            InvalidRequestError: the criterion is unknown, or the sweep generated no texts.
        """
        chosen = to_criterion(criterion)
        if self.texts is None:
            raise InvalidRequestError("the sweep generated no texts: .generating(tokens)", field="criterion")
        found = {
            name: np.vectorize(partial(_score, chosen), otypes=[np.float32])(getattr(self.texts, name))
            for name in ("edited", *_BASELINES)
        }
        values = found.pop("edited").reshape(self.shape)
        return replace(self, metric=chosen.name, values=values, is_normalised=False, **found)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: bars for one axis, a heat map for two, several heat maps for three.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def table(self) -> Table:
        """The cells with the largest effects."""
        return show(self, "table")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.sizes.items())
        return f"Scores({self.name}, {self.metric}, {sizes})"

    def _scaled(self, zero: Floats, one: Floats, *, is_normalised: bool) -> Scores:
        """(values - zero) / one, with zero and one for each pair."""
        shape = (-1, *[1] * (self.values.ndim - 1)) if self.dims[:1] == ("pair",) else ()
        new = {name: (getattr(self, name) - zero) / one for name in _BASELINES}
        values = (self.values - zero.reshape(shape)) / one.reshape(shape)
        return replace(self, values=values, is_normalised=is_normalised, **new)

    def _ranking(self) -> NDArray[np.float32]:
        return self.effects().values.reshape(-1)

    def _dependent_fields(self, dim: str, places: int | list[int] | None) -> dict[str, Any]:
        is_pair = dim == "pair"
        if places is None:
            means = {name: np.mean(getattr(self, name), keepdims=True) for name in _BASELINES} if is_pair else {}
            return {**means, "texts": None}
        listed = [places] if isinstance(places, int) else places
        found: dict[str, Any] = {name: getattr(self, name)[listed] for name in _BASELINES} if is_pair else {}
        if self.texts is not None:
            of_pairs = {name: getattr(self.texts, name)[listed] for name in _BASELINES} if is_pair else {}
            edited = self.texts.edited.take(places, self._axis(dim))
            # selecting a single element gives no array
            found["texts"] = replace(self.texts, edited=np.asarray(edited, object), **of_pairs)
        return found


def _text_of(text: pb.GeneratedText | None) -> str:
    return "" if text is None else text.text


def _score(criterion: Criterion, text: pb.GeneratedText | None) -> float:
    """The score of a text; NaN for None."""
    return math.nan if text is None else criterion(text.text, list(text.token_ids))
