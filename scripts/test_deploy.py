"""Builds the images of deploy/, runs the cluster, asks it what `make demo` asks, and takes it down: `make test-deploy`.

It takes ports and a project name of its own, so that a cluster in use is not touched. Where there is no Docker it
starts an engine of its own (`scripts.docker_engine`), with a base image made of Debian's packages and wheels fetched by
pip here, since such a machine rarely reaches a registry of images. It fails where anything is not so; it never skips.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import platformdirs
from rich.console import Console

from neuroscope.cli.demo.demo import QUESTION, Demo
from scripts.docker_engine import DockerEngine, docker_engine

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
MODEL = ROOT / "models" / "neuroscope-tiny"
LIMIT_S = 15.0
"""For up, until the gateway is healthy, and for down."""
PROJECT = "neuroscope-test"
PRIVATE_BASE = "neuroscope-test/debian-python"
_OPENER = build_opener(ProxyHandler({}))


def main() -> int:
    """Runs everything; 1 if something is not as it should be."""
    folder = Path(os.environ.get("NEUROSCOPE_TEST_DEPLOY_DIR") or platformdirs.user_cache_path("neuroscope") / "deploy")
    with docker_engine(folder) as engine:
        return Trial(engine, folder).run()


class Trial:
    """One run of the cluster.

    Args:
        engine: to build and run with.
        folder: where what is dear to make is kept.
    """

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._ports = {name: _free_port() for name in ("GRPC", "ANALYSIS", "REST", "TRACES")}
        self._environment = {f"NEUROSCOPE_{name}_PORT": str(port) for name, port in self._ports.items()}
        self._compose = (*engine.compose, "-p", PROJECT, "-f", str(DEPLOY / "compose.yaml"))
        self._failures: list[str] = []

    def run(self) -> int:
        """Everything in its order; the exit status."""
        if self._engine.is_private:
            self._provide()
        with self._timed("build"):
            self._call("build")
        self._call("config", "-q")
        self._call("-f", str(DEPLOY / "compose.metal.yaml"), "config", "-q")
        with self._running("the first up", None):
            self._ask()
        # Now that nothing of it is read for the first time, it may take no longer than this.
        with self._running("up, until healthy", LIMIT_S):
            pass
        for failure in self._failures:
            print(f"FAILED: {failure}", file=sys.stderr)
        if not self._failures:
            print("the cluster is as it should be")
        return 1 if self._failures else 0

    @contextmanager
    def _running(self, what: str, limit_s: float | None) -> Generator[None]:
        try:
            with self._timed(what, limit_s):
                self._call("up", "-d")
                self._wait_until_healthy()
            yield
        except BaseException:
            self._engine.run(*self._compose, "logs", "--tail", "50", check=False, environment=self._environment)
            raise
        finally:
            with self._timed("down", LIMIT_S):
                self._call("down", "--volumes")

    def _provide(self) -> None:
        """A base image and wheels, for an engine that reaches no registry."""
        self._environment |= {"NEUROSCOPE_BASE_IMAGE": PRIVATE_BASE, "PIP_NO_INDEX": "1"}
        with self._timed("base image"):
            if not self._engine.has_image(PRIVATE_BASE):
                self._engine.import_base(PRIVATE_BASE, self._folder)
        with self._timed("wheels"):
            wheels = DEPLOY / "wheels"
            for lock in ("build", "inference", "analysis", "gateway"):
                # Debian's Python of the base image is 3.11.
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--quiet", "--require-hashes"]
                command += ["--only-binary", ":all:", "--python-version", "3.11", "--dest", str(wheels)]
                command += ["--find-links", str(wheels), "-r", str(ROOT / "requirements" / f"{lock}.txt")]
                if subprocess.run([*command, "--no-index"], capture_output=True, check=False).returncode != 0:
                    subprocess.run(command, check=True)

    def _ask(self) -> None:
        target, url = f"127.0.0.1:{self._ports['GRPC']}", self._url("REST")
        output = self._folder / "demo-output"
        if not Demo(Console(width=150), output, str(MODEL), QUESTION, 24).verify(target, url):
            self._failures.append("the demo's claims do not hold in the cluster")
        self._check("traces were received", lambda: b".html" in _get(f"{self._url('TRACES')}/"), patience_s=20)
        for service in ("inference", "analysis", "gateway", "traces"):
            told = self._output("exec", "-T", service, "id", "-u")
            self._check(f"{service} is not run by root", lambda told=told: told == "10001")
            self._check(f"{service} gets healthy", lambda service=service: self._health(service), patience_s=30)

    def _health(self, service: str) -> bool:
        container = self._output("ps", "-q", service)
        command = [self._engine.docker, "inspect", "--format", "{{.State.Health.Status}}", container]
        told = {**os.environ, **self._engine.environment}
        done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
        return done.stdout.strip() == "healthy"

    def _check(self, claim: str, holds: object, *, patience_s: float = 0) -> None:
        assert callable(holds)
        deadline = time.monotonic() + patience_s
        while not (held := bool(holds())) and time.monotonic() < deadline:
            time.sleep(0.5)
        print(f"{'✓' if held else '✗'} {claim}")
        if not held:
            self._failures.append(claim)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 120
        while b'"healthy"' not in _get(f"{self._url('REST')}/health"):
            if time.monotonic() > deadline:
                raise RuntimeError("the gateway did not get healthy within two minutes")
            time.sleep(0.1)

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def _call(self, *arguments: str) -> None:
        self._engine.run(*self._compose, *arguments, environment=self._environment)

    def _output(self, *arguments: str) -> str:
        told = {**os.environ, **self._engine.environment, **self._environment}
        done = subprocess.run([*self._compose, *arguments], env=told, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    @contextmanager
    def _timed(self, what: str, limit_s: float | None = None) -> Generator[None]:
        began_s = time.monotonic()
        yield
        took_s = time.monotonic() - began_s
        late = limit_s is not None and took_s > limit_s
        print(
            f"{'✗' if late else '✓'} {what}: {took_s:.1f} s" + (f" (limit {limit_s:g})" if limit_s else ""), flush=True
        )
        if late:
            self._failures.append(f"{what} took {took_s:.1f} s, and may take {limit_s:g}")


def _get(url: str) -> bytes:
    try:
        with _OPENER.open(url, timeout=5) as response:
            return response.read()
    except HTTPError as error:
        with error:
            return error.read()
    except (URLError, OSError):
        return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
