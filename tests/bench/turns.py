"""Processes that take turns on the clock: each runs a moment while the others are stopped.

A shared machine's speed changes by the second. Processes that were measured one after the other would be compared under
different conditions; these are not: each has its part of every second.

    taken = take_turns([Turn([pid], function), ...])
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from tests.support.processes import cpu_seconds

SLICE_S = 0.25
_SETTLE_S = 0.03  # what a service does after its last byte counts too


@dataclass(frozen=True, slots=True)
class Turn:
    """Processes, and what makes them work: a function that returns once they have."""

    pids: Sequence[int]
    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a turn."""

    result: Any
    cpu_s: float
    """Of the processes."""
    wall_s: float
    """While it was its turn."""


def take_turns(turns: Sequence[Turn], slice_s: float = SLICE_S) -> list[Taken]:
    """Lets all of them work, one at a time; returns what each returned and used.

    Raises:
        Exception: what a function raised, once all have ended.
    """
    before = [_used(turn) for turn in turns]
    with ThreadPoolExecutor(len(turns)) as pool:
        for turn in turns:
            _signal(turn, signal.SIGSTOP)
        futures = [pool.submit(turn.work) for turn in turns]
        try:
            walls = _rotate(list(zip(turns, futures, strict=True)), slice_s)
        finally:
            for turn in turns:
                _signal(turn, signal.SIGCONT)
    return [
        Taken(future.result(), _used(turn) - cpu_s, wall_s)
        for turn, future, cpu_s, wall_s in zip(turns, futures, before, walls, strict=True)
    ]


def _used(turn: Turn) -> float:
    return sum(map(cpu_seconds, turn.pids))


def _signal(turn: Turn, number: signal.Signals) -> None:
    for pid in turn.pids:
        os.kill(pid, number)


def _rotate(waiting: list[tuple[Turn, Future[Any]]], slice_s: float) -> list[float]:
    """Seconds of each."""
    walls = [0.0] * len(waiting)
    for index, (turn, future) in itertools.cycle(enumerate(waiting)):
        if not future.done():
            begin = time.perf_counter()
            _signal(turn, signal.SIGCONT)
            wait([future], slice_s, FIRST_COMPLETED)
            walls[index] += time.perf_counter() - begin
            if future.done():
                time.sleep(_SETTLE_S)
            _signal(turn, signal.SIGSTOP)
        elif all(other.done() for _, other in waiting):
            break
    return walls
