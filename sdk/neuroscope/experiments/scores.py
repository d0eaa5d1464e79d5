"""The values of a grid with named axes."""

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
    """What runs went on with: `GeneratedText` of the contract, or None where there is none.

    Args:
        edited: by cell, in the shape of the values.
        clean: of the clean run of each pair (pairs,).
        corrupted: of the corrupted one.
        unedited: of the run that is edited, without its edit.
    """

    edited: Objects
    clean: Objects
    corrupted: Objects
    unedited: Objects

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The edited runs' texts as str."""
        return np.vectorize(_text_of, otypes=[object])(self.edited)


@dataclass(frozen=True, slots=True, eq=False)
class Scores(LabelledArray):
    """One number for each cell, along named axes; numpy takes it as an array.

    Args:
        name: of what was swept, such as head_output.
        metric: how runs were scored.
        values: float32; NaN where a patch has not been run.
        dims: names of the axes: pair (where there are several), layer, head, position, unit, feature, sender, receiver
            or cell.
        coords: by axis, what its indices stand for.
        clean: the metric of the clean run of each pair (pairs,).
        corrupted: that of the corrupted run; NaN where there is none.
        is_normalised: whether values are scaled so that the corrupted run has 0 and the clean one 1.
        unedited: the metric of the edited run without its edit, in units of `values` (pairs,).
        tokens: texts of the edited prompt's tokens, of the first pair; empty where they are not known.
        is_change: whether values are changes of the metric, as gradients promise them, and not the metric itself.
        texts: what runs went on with, where the sweep generated.
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
        """Scaled so that the corrupted run has 0 and the clean one 1; of changes, that their difference is 1.

        Raises:
            InvalidRequestError: a pair has no corrupted run, or both runs score the same.
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
        """The difference that each edit makes: values minus that of the same run without it."""
        return self._scaled(self.unedited, np.ones_like(self.unedited), is_normalised=self.is_normalised)

    def by(self, criterion: CriterionLike) -> Scores:
        """How the texts that runs went on with meet a criterion, in the place of the metric.

        Args:
            criterion: a name such as function_call or contains:Paris, or a function (text, token ids) -> score.

        Raises:
            InvalidRequestError: there is no such criterion, or the sweep generated no texts.
        """
        chosen = to_criterion(criterion)
        if self.texts is None:
            raise InvalidRequestError("the sweep generated no texts: .generating(tokens)", field="criterion")
        found = {
            name: np.vectorize(partial(_judged, chosen), otypes=[np.float32])(getattr(self.texts, name))
            for name in ("edited", *_BASELINES)
        }
        values = found.pop("edited").reshape(self.shape)
        return replace(self, metric=chosen.name, values=values, is_normalised=False, **found)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: a line for one axis, a heat map for two, several of these for more.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def table(self) -> Table:
        """The strongest cells, or all of a line, as a table of rich."""
        return show(self, "table")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.sizes.items())
        return f"Scores({self.name}, {self.metric}, {sizes})"

    def _scaled(self, zero: Floats, one: Floats, *, is_normalised: bool) -> Scores:
        """(values - zero) / one, these of each pair."""
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
            # one that is chosen of all is no array
            found["texts"] = replace(self.texts, edited=np.asarray(edited, object), **of_pairs)
        return found


def _text_of(text: pb.GeneratedText | None) -> str:
    return "" if text is None else text.text


def _judged(criterion: Criterion, text: pb.GeneratedText | None) -> float:
    """NaN where there is no text."""
    return math.nan if text is None else criterion(text.text, list(text.token_ids))
