"""Processes that take turns on the clock, and what another process uses.

python -m pytest tests/integration/test_bench_turns.py
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.bench.turns import Turn, take_turns
from tests.support import processes

_GROWS = """
import sys
for line in sys.stdin:
    held = bytearray(int(line))
    del held
    print("done", flush=True)
"""


@pytest.fixture
def busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that never rest."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_the_time_of_a_turn_is_that_of_its_own_slices(busy: list[subprocess.Popen[bytes]]) -> None:
    begin = time.perf_counter()
    turns = [Turn([process.pid], partial(time.sleep, 0.5)) for process in busy]
    taken = take_turns(turns, slice_s=0.1)
    whole_s = time.perf_counter() - begin
    assert all(0 < one.cpu_s <= one.wall_s + 0.1 for one in taken)
    assert sum(one.wall_s for one in taken) <= whole_s


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts peaks anew")
def test_a_peak_is_that_since_it_was_forgotten() -> None:
    command = [sys.executable, "-c", _GROWS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        peaks: list[int] = []
        for size in (200_000_000, 1000):
            processes.forget_peak(process.pid)
            print(size, file=process.stdin, flush=True)
            process.stdout.readline()
            peaks.append(processes.peak_resident_bytes(process.pid) or 0)
        process.stdin.close()
    assert peaks[0] > 200_000_000 > peaks[1] > 0
