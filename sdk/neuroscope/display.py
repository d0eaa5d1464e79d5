"""How values show themselves. `neuroscope.viz`, which draws them, is imported when something is first shown: tables and
pictures know the values, and values do not know them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_REGISTRY = "neuroscope.viz.presenters"


class Displayable:
    """A value with a table, for terminals and notebooks. What makes it is in `neuroscope.viz.presenters`."""

    __slots__ = ()

    def table(self) -> Table:
        """A table of rich."""
        return show(self, "table")

    def __rich__(self) -> Table:
        return self.table()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return show(self, "mimebundle", **options)


def show(value: Displayable, view: str, *args: Any, **options: Any) -> Any:
    """A view of a value.

    Args:
        value: is given to the presenter that is registered for its class, or for the nearest base of it.
        view: table, picture, ...
        args, options: of the presenter.

    Raises:
        InvalidRequestError: matplotlib is not installed (the extra `viz`).
    """
    presenter = importlib.import_module(_REGISTRY).presenter_of(type(value), view)
    return presenter(value, *args, **options)
