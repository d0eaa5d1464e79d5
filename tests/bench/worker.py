"""A process that measures: it is asked a line at a time, so that several of them can take turns.

with Worker("tests.bench.speed", "--worker", "mlx_lm", folder) as worker:      the one who asks
    worker.ask(hooks=["resid_post"], tokens=32)
answer(measure)                                                               the process, once it is ready
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

_READY = "ready"


class Worker:
    """A module run as a process, by this Python unless another one is named.

    Raises (from `ask`):
        ChildProcessError: the process has ended; what it wrote to stderr says why.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        command = [python, "-m", module, *arguments]
        pipe = subprocess.PIPE
        environ = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ)
        self._what = " ".join([module, *arguments])

    def __enter__(self) -> Worker:
        try:
            assert self._line() == _READY
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, **question: Any) -> dict[str, Any]:
        """What the process measures."""
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self._what} ended")
        return line.strip()

    def _end(self) -> None:
        self._process.communicate()  # ends its standard input, and so the process


def answer(measure: Callable[..., dict[str, Any]]) -> None:
    """Answers every question until standard input ends."""
    print(_READY, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def cpu_seconds() -> float:
    """CPU time of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
