"""Display of values. `neuroscope.viz`, which imports the values, is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_REGISTRY = "neuroscope.viz.presenters"


class Displayable:
    """A value with a table for terminals and notebooks, made by a presenter of `neuroscope.viz.presenters`."""

    __slots__ = ()

    def table(self) -> Table:
        """The value as a rich table."""
        return show(self, "table")

    def __rich__(self) -> Table:
        return self.table()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return show(self, "mimebundle", **options)


def show(value: Displayable, view: str, *args: Any, **options: Any) -> Any:
    """A view of a value.

    Args:
        value: the value; its class, or the nearest base class, selects the presenter.
        view: table, picture, ...
        args, options: of the presenter.

    Raises:
        InvalidRequestError: matplotlib is not installed (the extra `viz`).
    """
    presenter = importlib.import_module(_REGISTRY).presenter_of(type(value), view)
    return presenter(value, *args, **options)
