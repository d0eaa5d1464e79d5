"""A weight as an array with named axes, indexed by the model's layer, head and expert numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, eq=False)
class WeightArray:
    """An array with named axes. numpy functions accept it.

    `array[5, 3]` is layer 5, head 3, even if only some layers and heads were read. Other axes are indexed by position.
    Negative numbers count from the model's last layer or head.

    Args:
        name: name of the weight.
        values: the values.
        dims: names of the axes, such as layer, head, d_model.
        coords: the layers, heads or experts along an axis; axes that are complete are left out.
        extents: for axes in `coords`, the number that the model has.
    """

    name: str
    values: NDArray[Any]
    dims: tuple[str, ...]
    coords: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    extents: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type."""
        return self.values.dtype

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each axis."""
        return dict(zip(self.dims, self.shape, strict=True))

    def sel(self, **chosen: int | Sequence[int]) -> NDArray[Any]:
        """Selects layers, heads, ...: `sel(layer=3, head=[0, 2])`. A single number drops its axis.

        Raises:
            InvalidRequestError: there is no such axis, or it has no such number.
        """
        for dim in chosen:
            if dim not in self.dims:
                raise InvalidRequestError(f"{self.name} has no axis {dim!r}", field=dim, valid=self.dims)
        return self[tuple(chosen.get(dim, slice(None)) for dim in self.dims)]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        wanted: tuple[Any, ...] = cast("tuple[Any, ...]", index) if isinstance(index, tuple) else (index,)
        if any(each is Ellipsis or each is None for each in wanted):
            raise InvalidRequestError(f"{self.name} is indexed by numbers, slices and lists", field="index")
        if len(wanted) > len(self.dims):
            raise InvalidRequestError(f"{self.name} has the axes {', '.join(self.dims)}", field="index")
        found = self.values
        axis = 0
        for dim, each in zip(self.dims, wanted, strict=False):
            places = self._places(dim, each)
            found = found[(slice(None),) * axis + (places,)]
            axis += not isinstance(places, int)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in self.sizes.items())
        return f"WeightArray({self.name}, {sizes}, {self.dtype})"

    def _places(self, dim: str, wanted: Any) -> int | slice | list[int]:
        """Positions of the requested numbers along an axis."""
        if dim not in self.coords:
            return int(cast("int", wanted)) if isinstance(wanted, (int, np.integer)) else wanted
        known, count = list(self.coords[dim]), self.extents[dim]
        if isinstance(wanted, slice):
            inside = range(count)[wanted]
            return [known.index(number) for number in inside if number in known]
        if isinstance(wanted, (int, np.integer)):
            return self._place(dim, int(cast("int", wanted)), known, count)
        return [self._place(dim, operator.index(each), known, count) for each in wanted]

    def _place(self, dim: str, number: int, known: list[int], count: int) -> int:
        counted = number + count if number < 0 else number
        if counted not in known:
            there = "there are" if len(known) == count else "there were read"
            raise InvalidRequestError(
                f"{self.name} has no {dim} {number}; {there} {_listed(known)}", field=dim, valid=[str(n) for n in known]
            )
        return known.index(counted)


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
