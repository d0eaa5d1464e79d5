"""How far a load or a capture is: a rich bar, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from neuroscope.v1 import inference_pb2 as pb

LoadListener: TypeAlias = "bool | Callable[[pb.LoadProgress], None]"
"""True: a bar; a function: called with every report."""
ByteListener: TypeAlias = "bool | Callable[[int], None]"
"""True: a bar; a function: called with the bytes received so far."""

_PHASES = {
    pb.LOAD_PHASE_UNSPECIFIED: "loading",
    pb.LOAD_PHASE_FETCH: "fetching",
    pb.LOAD_PHASE_READ: "reading weights",
    pb.LOAD_PHASE_SELF_TEST: "proving hook points",
}


@contextmanager
def load_listener(listener: LoadListener) -> Generator[Callable[[pb.LoadProgress], None], None, None]:
    """What to call with each report of a load; a bar ends with the block."""
    if callable(listener):
        yield listener
    elif not listener:
        yield lambda report: None
    else:
        with _bar() as update:
            yield lambda report: update(_PHASES[report.phase], report.bytes_done, report.bytes_total or None)


@contextmanager
def byte_listener(listener: ByteListener, description: str) -> Generator[Callable[[int], None], None, None]:
    """What to call with the bytes received so far."""
    if callable(listener):
        yield listener
    elif not listener:
        yield lambda received: None
    else:
        with _bar() as update:
            yield lambda received: update(description, received, None)


@contextmanager
def _bar() -> Generator[Callable[[str, int, int | None], None], None, None]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda description, done, total: progress.update(
            task, description=description, completed=done, total=total
        )
