"""A rich table that renders itself as text."""

from __future__ import annotations

import io
import shutil

from rich.console import Console
from rich.table import Table

NOTEBOOK_WIDTH = 120
_WIDTHS = 80, 160  # least and most columns of a table


class TextTable(Table):
    """A table whose `str` is its text without colours, so that `print(result.table())` shows it."""

    def __str__(self) -> str:
        return as_text(self)


def as_text(table: Table) -> str:
    """A table without colours, as wide as the terminal allows."""
    least, most = _WIDTHS
    width = min(max(shutil.get_terminal_size((NOTEBOOK_WIDTH, 24)).columns, least), most)
    console = Console(file=io.StringIO(), width=width, color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
