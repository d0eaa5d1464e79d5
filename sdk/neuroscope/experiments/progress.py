"""Progress of sweeps and attributions: a progress bar (rich), or a callback."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from neuroscope.v1 import experiment_pb2 as pb

SweepListener: TypeAlias = "bool | Callable[[pb.SweepProgress], None]"
"""True for a progress bar on standard error, or a function that is called with every report."""


AttributionListener: TypeAlias = "bool | Callable[[pb.AttributionProgress], None]"
"""The same for attributions."""


@contextmanager
def sweep_listener(listener: SweepListener) -> Generator[Callable[[pb.SweepProgress], None], None, None]:
    """A function to call with each report. A bar ends with the block."""
    if callable(listener):
        yield listener
        return
    with _bar("sweeping", is_shown=listener) as update:
        yield lambda report: update(report.patches_done, report.patch_count, report.remaining_seconds)


@contextmanager
def attribution_listener(
    listener: AttributionListener,
) -> Generator[Callable[[pb.AttributionProgress], None], None, None]:
    """The same for attributions."""
    if callable(listener):
        yield listener
        return
    with _bar("attributing", is_shown=listener) as update:
        yield lambda report: update(report.passes_done, report.pass_count, report.remaining_seconds)


@contextmanager
def _bar(name: str, *, is_shown: bool) -> Generator[Callable[[int, int, float], None], None, None]:
    """A function to call with done, total and remaining seconds."""
    if not is_shown:
        yield lambda done, count, remaining_s: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    remaining = TextColumn("{task.fields[remaining]}")
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), remaining)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, remaining="")
        yield lambda done, count, remaining_s: progress.update(
            task, completed=done, total=count, remaining=f"{remaining_s:.0f} s left"
        )
