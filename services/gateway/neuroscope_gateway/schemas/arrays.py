"""Arrays of results as JSON."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from neuroscope.labelled_array import LabelledArray


class NamedArray(BaseModel):
    """Values along named axes."""

    name: str
    dims: list[str]
    """The axes, such as pair, layer, head, position, unit, sender, receiver. There is no pair axis for one pair."""
    coords: dict[str, list[int | str]]
    """For each axis, what its indices stand for."""
    values: list[Any]
    """Nested lists, one level for each axis; null where there is no value."""

    @classmethod
    def of(cls, name: str, grid: LabelledArray, **fields: Any) -> Self:
        """An array of a result."""
        coords = {dim: list(values) for dim, values in grid.coords.items()}
        return cls(name=name, dims=list(grid.dims), coords=coords, values=to_nested_lists(grid.values), **fields)


def to_nested_lists(values: NDArray[np.floating]) -> list[Any]:
    """An array as nested lists, with null for NaN."""
    found = np.atleast_1d(values).astype(object)
    found[np.isnan(np.atleast_1d(values))] = None
    return found.tolist()
