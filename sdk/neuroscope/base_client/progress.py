"""Progress of long calls: a bar on standard error, or a function of the user's that gets every report."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias, TypeVar

from neuroscope.v1 import experiment_pb2, inference_pb2, progress_pb2

Report = TypeVar("Report")
Listener: TypeAlias = "bool | Callable[[Report], None]"
"""True shows a bar; a function is called with every report."""
Listening: TypeAlias = "AbstractContextManager[Callable[[Report], None]]"
"""Gives the function to call with every report; a bar ends with the `with` block."""
LoadListener: TypeAlias = "Listener[inference_pb2.LoadProgress]"
ByteListener: TypeAlias = "Listener[int]"
"""Reports are the number of bytes received so far."""
SweepListener: TypeAlias = "Listener[experiment_pb2.SweepProgress]"
AttributionListener: TypeAlias = "Listener[experiment_pb2.AttributionProgress]"
AnalysisListener: TypeAlias = "Listener[progress_pb2.AnalysisProgress]"

_PHASES = {
    inference_pb2.LOAD_PHASE_UNSPECIFIED: "loading",
    inference_pb2.LOAD_PHASE_FETCH: "fetching",
    inference_pb2.LOAD_PHASE_READ: "reading weights",
    inference_pb2.LOAD_PHASE_SELF_TEST: "proving hook points",
}


def load_listener(listener: LoadListener) -> Listening[inference_pb2.LoadProgress]:
    """Progress of a load."""
    return _listening(
        listener, lambda report: (_PHASES[report.phase], report.bytes_done, report.bytes_total or None), in_bytes=True
    )


def byte_listener(listener: ByteListener, description: str) -> Listening[int]:
    """Progress of a stream of tensors."""
    return _listening(listener, lambda received: (description, received, None), in_bytes=True)


def sweep_listener(listener: SweepListener) -> Listening[experiment_pb2.SweepProgress]:
    """Progress of a sweep."""
    return _listening(
        listener, lambda report: ("sweeping", report.patches_done, report.patch_count, report.remaining_seconds)
    )


def attribution_listener(listener: AttributionListener) -> Listening[experiment_pb2.AttributionProgress]:
    """Progress of an attribution."""
    return _listening(
        listener, lambda report: ("attributing", report.passes_done, report.pass_count, report.remaining_seconds)
    )


def analysis_listener(listener: AnalysisListener) -> Listening[progress_pb2.AnalysisProgress]:
    """Progress of an analysis."""
    return _listening(listener, lambda report: (report.stage, report.done, report.count))


@contextmanager
def _listening(
    listener: Listener[Report], bar_state: Callable[[Report], tuple[Any, ...]], *, in_bytes: bool = False
) -> Generator[Callable[[Report], None], None, None]:
    """Yields the listener, or a function that updates a bar.

    Args:
        listener: the user's argument.
        bar_state: description, done, total (None: unknown), and remaining seconds if known.
        in_bytes: whether the bar counts bytes.
    """
    if callable(listener):
        yield listener
        return
    if not listener:
        yield lambda report: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn

    counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TextColumn("{task.fields[remaining]}"))
    console = Console(stderr=True)
    # A bar that nobody sees would still leave an empty line in a log.
    hidden = not console.is_interactive and not console.is_jupyter
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=None, remaining="")

        def show(report: Report) -> None:
            description, done, total, *remaining_s = bar_state(report)
            remaining = f"{remaining_s[0]:.0f} s left" if remaining_s else ""
            progress.update(task, description=description, completed=done, total=total, remaining=remaining)

        yield show
