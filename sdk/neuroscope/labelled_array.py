"""An array with named axes and coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError
from neuroscope.optional_import import optional_import

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledArray(Displayable):
    """An array with named axes and coordinates, as in xarray. numpy functions accept it.

    Args:
        name: name of the values.
        values: float32; NaN for missing values.
        dims: names of the axes, such as layer and head.
        coords: coordinates by axis.
    """

    name: str
    values: Floats
    dims: tuple[str, ...]
    coords: Mapping[str, Sequence[Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.values.shape

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each axis."""
        return dict(zip(self.dims, self.shape, strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def sel(self, **chosen: Any) -> Self:
        """Selects by coordinates, such as `sel(layer=3, head=[0, 2])`. A single coordinate drops its axis.

        Raises:
            InvalidRequestError: there is no such axis, or no such coordinate.
        """
        found = self
        for dim, wanted in chosen.items():
            found = found._selected(dim, wanted)
        return found

    def mean(self, dim: str) -> Self:
        """The mean along an axis."""
        axis = self._axis(dim)
        left = {name: values for name, values in self.coords.items() if name != dim}
        dims = (*self.dims[:axis], *self.dims[axis + 1 :])
        values = self.values.mean(axis=axis, dtype=np.float32)
        return replace(self, values=values, dims=dims, coords=left, **self._dependent_fields(dim, None))

    def top(self, count: int = 10) -> list[tuple[dict[str, Any], float]]:
        """Coordinates and values of the largest magnitudes, largest first."""
        values = self.values.reshape(-1)
        order = np.argsort(-np.abs(np.nan_to_num(self._ranking())), kind="stable")[:count]
        return [(self._place(int(index)), float(values[index])) for index in order]

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each value: its coordinates and `value`.

        Raises:
            InvalidRequestError: pandas is not installed.
        """
        pandas = optional_import("pandas", "to_dataframe")
        places = list(itertools.product(*(self.coords[dim] for dim in self.dims)))
        columns = {dim: [place[axis] for place in places] for axis, dim in enumerate(self.dims)}
        return pandas.DataFrame({**columns, "value": self.values.reshape(-1)})

    def table(self) -> Table:
        """The values with the largest magnitudes."""
        return show(self, "table")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.sizes.items())
        return f"{type(self).__name__}({self.name}, {sizes})"

    def _ranking(self) -> NDArray[np.float32]:
        """The values that `top` sorts by."""
        return self.values.reshape(-1)

    def _dependent_fields(self, dim: str, places: int | list[int] | None) -> dict[str, Any]:
        """Other fields that change when indices of an axis are selected, or (None) averaged."""
        return {}

    def _selected(self, dim: str, wanted: Any) -> Self:
        axis, known = self._axis(dim), list(self.coords[dim])
        is_one = isinstance(wanted, str) or not isinstance(wanted, Sequence)
        entries: list[Any] = [wanted] if is_one else list(cast("Sequence[Any]", wanted))
        for entry in entries:
            if entry not in known:
                raise InvalidRequestError(
                    f"there is no {dim} {entry!r}", field=dim, valid=[str(name) for name in known]
                )
        places = [known.index(entry) for entry in entries]
        beside = self._dependent_fields(dim, places[0] if is_one else places)
        if is_one:
            left = {name: values for name, values in self.coords.items() if name != dim}
            dims = (*self.dims[:axis], *self.dims[axis + 1 :])
            return replace(self, values=self.values.take(places[0], axis), dims=dims, coords=left, **beside)
        coords = {**self.coords, dim: entries}
        return replace(self, values=self.values.take(places, axis), coords=coords, **beside)

    def _axis(self, dim: str) -> int:
        if dim not in self.dims:
            raise InvalidRequestError(f"{self.name} has no axis {dim!r}", field=dim, valid=self.dims)
        return self.dims.index(dim)

    def _place(self, index: int) -> dict[str, Any]:
        places = np.unravel_index(index, self.shape)
        return {dim: self.coords[dim][int(place)] for dim, place in zip(self.dims, places, strict=True)}
