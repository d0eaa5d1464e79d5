"""How far an analysis is: a rich bar, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from neuroscope.v1 import progress_pb2 as pb

AnalysisListener: TypeAlias = "bool | Callable[[pb.AnalysisProgress], None]"
"""True: a bar on standard error; a function: called with every report."""


@contextmanager
def analysis_listener(listener: AnalysisListener) -> Generator[Callable[[pb.AnalysisProgress], None], None, None]:
    """What to call with each report; a bar ends with the block."""
    if callable(listener):
        yield listener
        return
    if not listener:
        yield lambda report: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda report: progress.update(task, description=report.stage, completed=report.done, total=report.count)
