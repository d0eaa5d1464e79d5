"""Keeps services running: starts them, restarts what dies, leaves nothing behind.

    with Supervisor(log=print) as supervisor:
        address = supervisor.start(Service("neuroscope-inference", [sys.executable, "-m", "neuroscope_inference"]))
        supervisor.wait()                       until SIGTERM, SIGHUP or Ctrl-C

Knows nothing of what the services do.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from neuroscope.cli.processes.process import Service, ServiceProcess
from neuroscope.errors import NeuroScopeIntegrationError

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class ProcessFailedError(NeuroScopeIntegrationError):
    """A service ended before it was ready, was not ready in time, or died too often.

    Args:
        message: what happened.
        tail: the last lines of its output.
    """

    def __init__(self, message: str, tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.tail = tuple(tail)


@dataclass(frozen=True)
class Backoff:
    """When a service that died is started again."""

    first_pause_s: float = 0.5
    """Pause before the first restart; each further one is twice as long."""
    max_pause_s: float = 30.0
    """Longest pause."""
    healthy_s: float = 60.0
    """A process that ran this long was healthy: the next pause is the first again."""
    max_restarts: int = 8
    """Restarts in a row before the service counts as failed."""

    def pause_s(self, restarts: int) -> float:
        """The pause before the next restart, after so many of them in a row."""
        return min(self.max_pause_s, self.first_pause_s * 2**restarts)


class Supervisor:
    """Runs services until it is left. While it is entered, SIGTERM and SIGHUP raise SystemExit in the main thread.

    Args:
        log: called with a service's name and a line of its output; from several threads, but one at a time.
        on_notice: called with a notice of the supervisor, such as a restart; likewise.
        restarts: whether a service that dies is started again; if not, its death is a failure.
        grace_s: time between SIGTERM and SIGKILL.
        backoff: pauses between restarts.
    """

    def __init__(
        self,
        log: Callable[[str, str], None] = lambda name, line: None,
        on_notice: Callable[[str], None] = lambda notice: None,
        *,
        restarts: bool = True,
        grace_s: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._log = log
        self._on_notice = on_notice
        self._restarts = restarts
        self._grace_s = grace_s
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._output_lock = threading.Lock()
        self._running: list[ServiceProcess] = []
        self._stopping = threading.Event()
        self._ended = threading.Event()  # there is a failure, or the supervisor is stopping
        self._failure: ProcessFailedError | None = None
        self._previous_handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._previous_handlers[number] = signal.signal(number, _exit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._previous_handlers.items():
                signal.signal(number, handler)

    def start(self, service: Service) -> str:
        """Starts a service and waits until it is ready.

        Returns:
            The address of its ready line.

        Raises:
            ProcessFailedError: it ended, or was not ready in time. It is stopped then, and not started again.
        """
        running = ServiceProcess(service, self._log_line)
        with self._lock:
            self._running.append(running)
        running.launch()
        if not running.wait_ready():
            ended = running.process_id is None
            running.disable()
            running.end(self._grace_s)
            why = running.exit_description() if ended else f"was not ready within {service.ready_timeout_s:g} s"
            raise ProcessFailedError(f"{service.name} did not start: it {why}", running.tail)
        threading.Thread(target=self._watch, args=(running,), name=f"watch-{service.name}", daemon=True).start()
        return running.address

    def wait(self, timeout_s: float | None = None) -> None:
        """Waits until a service failed for good, or the time is over. Signals end it with an exception.

        Raises:
            ProcessFailedError: a service died too often, or died and restarts are off.
        """
        self._ended.wait(timeout_s)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raises what `wait` would raise, without waiting."""
        if self._failure is not None:
            raise self._failure

    def process_ids(self) -> dict[str, int]:
        """Process ids by service, of those that run."""
        with self._lock:
            running = list(self._running)
        return {each.service.name: process_id for each in running if (process_id := each.process_id) is not None}

    def stop(self) -> None:
        """Stops every service, and returns when all processes are gone. Safe to call twice."""
        self._stopping.set()
        self._ended.set()
        with self._lock:
            running = self._running
            self._running = []
        for each in reversed(running):
            each.disable()
            each.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        try:
            for each in running:
                each.end(max(0.0, deadline - time.monotonic()))
        except BaseException:  # a second Ctrl-C ends the grace period
            for each in running:
                each.end(0.0)
            raise

    def _watch(self, running: ServiceProcess) -> None:
        """Starts a service again for as long as that makes sense."""
        name = running.service.name
        restarts = 0
        while True:
            ran_s = running.wait_exit()
            if self._stopping.is_set():
                return
            if ran_s >= self._backoff.healthy_s:
                restarts = 0
            if not self._restarts or restarts >= self._backoff.max_restarts:
                often = f" and did so again after {restarts} restarts" if restarts else ""
                self._failure = ProcessFailedError(f"{name} {running.exit_description()}{often}", running.tail)
                self._ended.set()
                return
            pause_s = self._backoff.pause_s(restarts)
            self._notify(f"{name} {running.exit_description()}; starting it again in {pause_s:g} s")
            if self._stopping.wait(pause_s):
                return
            restarts += 1
            running.launch()
            if running.wait_ready():
                self._notify(f"{name} is ready again on {running.address}")

    def _log_line(self, name: str, line: str) -> None:
        with self._output_lock:
            self._log(name, line)

    def _notify(self, notice: str) -> None:
        with self._output_lock:
            self._on_notice(notice)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
