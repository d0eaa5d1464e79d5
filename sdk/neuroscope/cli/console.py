"""What the command line prints on: results on stdout, everything else on stderr."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from neuroscope.errors import MLXIntegrationError

out = Console(highlight=False)
"""Results."""
err = Console(stderr=True, highlight=False)
"""Errors, warnings and progress."""


def show_error(error: MLXIntegrationError) -> None:
    """One line: what is wrong, where in the request, and the nearest names; then the last words of a process."""
    line = Text.assemble(("error: ", "bold red"), (error.message, "red"))
    unnamed = [name for name in error.valid if name not in error.message]
    if unnamed and len(unnamed) == len(error.valid):
        line.append(f"; nearest: {', '.join(unnamed)}", "red")
    if error.field and error.field not in error.message:
        line.append(f" ({error.field})", "dim red")
    err.print(line, soft_wrap=True)
    from neuroscope.cli.processes.supervisor import ProcessFailedError

    if isinstance(error, ProcessFailedError):
        for line in error.tail:
            err.print(Text(f"  │ {line}", "dim"), soft_wrap=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A Python warning as one line; stands in for `warnings.showwarning`."""
    err.print(Text.assemble(("warning: ", "bold yellow"), (str(message), "yellow")), soft_wrap=True)


def show_warnings_as_lines() -> None:
    """Makes the SDK's warnings lines of ours."""
    warnings.showwarning = show_warning
