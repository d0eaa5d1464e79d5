"""How far a sweep is: a rich bar, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from neuroscope.v1 import experiment_pb2 as pb

SweepListener: TypeAlias = "bool | Callable[[pb.SweepProgress], None]"
"""True: a bar on standard error; a function: called with every report."""


@contextmanager
def sweep_listener(listener: SweepListener) -> Generator[Callable[[pb.SweepProgress], None], None, None]:
    """What to call with each report; a bar ends with the block."""
    if callable(listener):
        yield listener
    elif not listener:
        yield lambda report: None
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        remaining = TextColumn("{task.fields[remaining]}")
        columns = (TextColumn("sweeping"), BarColumn(), MofNCompleteColumn(), remaining)
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None, remaining="")
            yield lambda report: progress.update(
                task,
                completed=report.patches_done,
                total=report.patch_count,
                remaining=f"{report.remaining_seconds:.0f} s left",
            )
