"""Services as processes of their own, started the way users start them, on a free port.

    with inference_service(folder) as service:
        Client(service.target)

`running` starts any module that prints `... ready on ADDRESS` once it serves.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
_READY = re.compile(r"^\S+ ready on (\S+)$", re.MULTILINE)
# Nothing that a test does may reach the network: the hub is a port that refuses, and refuses at once.
_ENVIRONMENT = {"MLX_DISABLE_COMPILE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    target: str
    """What it printed: host:port, or a URL."""
    process: subprocess.Popen[bytes]
    log_file: Path
    """Everything it wrote, stdout and stderr."""

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.target.rsplit(":", 1)[1])

    def resident_bytes(self) -> int:
        """Memory it holds now."""
        return processes.resident_bytes(self.process.pid)

    def cpu_seconds(self) -> float:
        """CPU time it has used, user and system."""
        return processes.cpu_seconds(self.process.pid)

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Sends SIGTERM and waits; returns the exit status.

        Raises:
            AssertionError: it did not end in time, and was killed.
        """
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the service did not stop within {STOP_TIMEOUT_S:g} s\n{self.log}") from None


def spawn(module: str, *arguments: str, log_file: Path, environment: Mapping[str, str] | None = None) -> Service:
    """Starts `python -m module` and does not wait; `target` is empty."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT, **(environment or {})},
        )
    return Service("", process, log_file)


def wait_until_ready(service: Service) -> Service:
    """The service with its target, once it has said that it is ready.

    Raises:
        AssertionError: it ended instead, or took too long; with its log.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if match := _READY.search(service.log):
            return Service(match[1], service.process, service.log_file)
        if service.process.poll() is not None:
            raise AssertionError(f"the service ended with status {service.process.returncode}\n{service.log}")
        time.sleep(0.02)
    service.process.kill()
    service.process.wait()
    raise AssertionError(f"the service was not ready within {START_TIMEOUT_S:g} s\n{service.log}")


@contextmanager
def running(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Generator[Service]:
    """A service that is ready; it is stopped at the end of the block if it still runs."""
    with tempfile.TemporaryDirectory(prefix="neuroscope-test-") as folder:
        spool = {"NEUROSCOPE_INFERENCE_SPOOL_DIR": f"{folder}/spool"}  # a test touches nobody's cache
        started = spawn(module, *arguments, log_file=Path(folder) / "log", environment={**spool, **(environment or {})})
        try:
            yield wait_until_ready(started)
        finally:
            started.stop()


@contextmanager
def inference_service(
    *models: Path, arguments: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> Generator[Service]:
    """An inference service with these models loaded, in this order; the first one is the default."""
    loads = [argument for model in models for argument in ("--model", str(model))]
    with running("neuroscope_inference", "--port", "0", *loads, *arguments, environment=environment) as service:
        yield service
