"""The libraries as processes that are asked the same, each with one thread for matrix products."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.bench.peers import environment
from tests.bench.peers.workers.library import Arrays
from tests.bench.turns import Taken, Turn, take_turns
from tests.bench.worker import Worker
from tests.support import processes
from tests.support.services import inference_service

OURS = "NeuroScope"
MLX = "mlx-lm"
HUGGING_FACE = "Hugging Face"
PEERS: Mapping[str, str] = {
    "TransformerLens": "transformer_lens_hooks",
    "nnsight": "nnsight_traces",
    HUGGING_FACE: "hugging_face",
}
"""Libraries of the other environment, and their modules in `workers`."""
_WORKERS = "tests.bench.peers.workers"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Contestant:
    """A library's process, or a service of ours and its client."""

    name: str
    worker: Worker
    """Who is asked."""
    pids: Sequence[int]
    """Of the worker, and of the service that it is a client of."""

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """A task of `tests.bench.peers.workers.library.Library`, and what came of it."""
        return self.worker.ask(task=task, **arguments)

    def arrays(self, task: str, **arguments: Any) -> Arrays:
        """The same for a task whose result is arrays."""
        with TemporaryDirectory() as folder:
            self.ask(task, file=f"{folder}/found.npz", **arguments)
            with np.load(f"{folder}/found.npz") as found:
                return dict(found)

    def forget_peak(self) -> None:
        """Lets `peak_bytes` begin anew."""
        for pid in self.pids:
            processes.forget_peak(pid)

    def peak_bytes(self) -> int | None:
        """The most memory that it held, client's and service's added up; None where the system does not say."""
        peaks = [processes.peak_resident_bytes(pid) for pid in self.pids]
        return sum(peak for peak in peaks if peak is not None) if None not in peaks else None


def in_turns(
    contestants: Sequence[Contestant],
    first: int,
    task: str,
    *,
    each: Sequence[Mapping[str, Any]] | None = None,
    **arguments: Any,
) -> list[Taken]:
    """All of them do a task, a quarter of a second at a time; the worker's answer is each result.

    Args:
        contestants: whose results come back in this order.
        first: index of the one that begins, modulo how many there are.
        task: of `Library`.
        each: further arguments of the task, of each contestant.
        arguments: of the task.
    """
    own = each or [{}] * len(contestants)
    turns = [
        Turn(one.pids, partial(one.ask, task, **arguments, **more)) for one, more in zip(contestants, own, strict=True)
    ]
    start = first % len(turns)
    taken = take_turns(turns[start:] + turns[:start])
    return taken[len(taken) - start :] + taken[: len(taken) - start]


@contextmanager
def contestants(folder: Path, names: Sequence[str]) -> Generator[list[Contestant]]:
    """The named libraries with the model of a folder, in that order."""
    with ExitStack() as stack:
        yield [_start(stack, name, folder) for name in names]


def _start(stack: ExitStack, name: str, folder: Path) -> Contestant:
    if name == OURS:
        service = stack.enter_context(inference_service(folder, environment=_ONE_THREAD))
        worker = stack.enter_context(Worker(_WORKERS, "ours", service.target))
        return Contestant(name, worker, [worker.pid, service.process.pid])
    if name == MLX:
        worker = Worker(_WORKERS, "mlx_alone", str(folder), environment=_ONE_THREAD)
    else:
        python = environment.python()
        worker = Worker(_WORKERS, PEERS[name], str(folder), environment=environment.SETTINGS, python=python)
    stack.enter_context(worker)
    return Contestant(name, worker, [worker.pid])
