"""One service as a process of its own: started, read line by line until it is ready, ended with all that it started.

The process leads a process group. The group gets SIGTERM, and SIGKILL after a grace period. If this process itself is
killed, a watchdog, a shell that waits on a pipe, does the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

TAIL_LINES = 20
"""Last lines of output that are kept for errors."""
_WATCHDOG = 'read -r _; kill -s TERM -- "-$0"; sleep 5; kill -s KILL -- "-$0"'
_POLL_S = 0.02


@dataclass(frozen=True)
class Service:
    """A process to keep running. It is ready when it prints `NAME ready on ADDRESS`."""

    name: str
    """Name in the log and in the ready line."""
    command: Sequence[str]
    """Program and arguments; a restart uses the same ones, so ports are best fixed."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables besides those of this process."""
    ready_timeout_s: float = 900.0
    """How long it may take until it is ready; large models take long to read."""


class ServiceProcess:
    """The present process of one service.

    Args:
        service: what to run.
        log: called with the service's name and a line of output, from a thread of the process's own.
    """

    def __init__(self, service: Service, log: Callable[[str, str], None]) -> None:
        self.service = service
        self.address = ""
        """What the ready line says; empty until then."""
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._began_s = 0.0
        self._is_disabled = False
        self._lock = threading.Lock()

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines of output."""
        return tuple(self._lines)

    @property
    def process_id(self) -> int | None:
        """The process's id; None if none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def launch(self) -> None:
        """Starts the process, unless the service was disabled."""
        with self._lock:
            if self._is_disabled:
                return
            self.address = ""
            self._ready.clear()
            self._began_s = time.monotonic()
            self._process = subprocess.Popen(
                self.service.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.service.environment},
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            name = f"log-{self.service.name}"
            self._reader = threading.Thread(target=self._read, args=(self._process,), name=name, daemon=True)
            self._reader.start()

    def wait_ready(self) -> bool:
        """Waits for the ready line; False if the process ended before it, or the time is over."""
        deadline = self._began_s + self.service.ready_timeout_s
        while not self._ready.wait(_POLL_S):
            if self.process_id is None or time.monotonic() > deadline:
                if self._reader is not None:
                    self._reader.join(0.2)  # the last words of a process that ended
                return self._ready.is_set() and self.process_id is not None
        return True

    def wait_exit(self) -> float:
        """Waits until the process has ended, and ends what it left behind. Returns how long it ran, in seconds."""
        if self._process is not None:
            self._process.wait()
        ran_s = time.monotonic() - self._began_s
        if not self._is_disabled:  # a disabled service is ended by its caller, with a grace period
            self.end(0.0)
        return ran_s

    def disable(self) -> None:
        """Prevents further launches."""
        with self._lock:
            self._is_disabled = True

    def exit_description(self) -> str:
        """How the process ended, in words."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "has not ended"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and all that it started."""
        if self._process is not None and self._watchdog is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def end(self, grace_s: float) -> None:
        """Ends the whole group: SIGTERM, then SIGKILL after the grace period. Safe to call twice."""
        if self._process is None or self._watchdog is None:
            return
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._group_is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self.signal(signal.SIGKILL)
        self._process.wait()
        if self._reader is not None:
            self._reader.join(1.0)
        self._stop_watchdog()

    def _stop_watchdog(self) -> None:
        with self._lock:
            watchdog, self._watchdog = self._watchdog, None  # from here on the group's number may be someone else's
        if watchdog is not None:
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()

    def _group_is_alive(self) -> bool:
        if self._process is None:
            return False
        self._process.poll()  # so that a dead leader does not count as a living one
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # what macOS says of a group of zombies
            return self._process.returncode is None
        return True

    def _read(self, process: subprocess.Popen[str]) -> None:
        ready_line = re.compile(rf"{re.escape(self.service.name)} ready on (\S+)")
        if process.stdout is None:
            return
        with process.stdout:
            for raw in process.stdout:
                line = raw.rstrip("\r\n")
                self._lines.append(line)
                self._log(self.service.name, line)
                if match := ready_line.search(line):
                    self.address = match[1]
                    self._ready.set()
