"""A Docker engine to build and run with: the one that is there, or on Linux a private one of Debian's docker.io.

The private engine keeps everything in one folder, listens on a socket there, and leaves no trace but that folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("docker.io", "docker-compose", "debootstrap", "iptables", "tini")
RELEASE = "bookworm"
_START_S = 60.0
_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """An engine, and how to call it."""

    docker: str
    compose: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    is_private: bool = False

    def run(
        self, *arguments: str, check: bool = True, quiet: bool = False, environment: Mapping[str, str] | None = None
    ) -> int:
        """Runs a program with the engine's variables; the exit status.

        Raises:
            subprocess.CalledProcessError: it failed, and `check` is set.
        """
        told = {**os.environ, **self.environment, **(environment or {})}
        out = subprocess.DEVNULL if quiet else None
        return subprocess.run(arguments, env=told, check=check, stdout=out, stderr=out).returncode

    def has_image(self, name: str) -> bool:
        """Whether an image is there, or can be fetched."""
        if self.run(self.docker, "image", "inspect", name, check=False, quiet=True) == 0:
            return True
        return not self.is_private and self.run(self.docker, "pull", name, check=False) == 0

    def import_base(self, name: str, folder: Path) -> None:
        """Makes an image of Debian with Python from Debian's packages, where no registry of images can be reached."""
        rootfs = folder / "rootfs"
        if not (rootfs / "usr/bin/python3").exists():
            shutil.rmtree(rootfs, ignore_errors=True)
            packages = "--include=python3,python3-venv,ca-certificates"
            self.run("debootstrap", "--variant=minbase", packages, RELEASE, str(rootfs), _mirror(), quiet=True)
        tar = subprocess.Popen(
            ["tar", "-C", str(rootfs), "--exclude=./proc/*", "--exclude=./sys/*", "-c", "."], stdout=subprocess.PIPE
        )
        told = {**os.environ, **self.environment}
        subprocess.run(
            [self.docker, "import", "-", name], env=told, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True
        )
        if tar.wait() != 0:
            raise subprocess.CalledProcessError(tar.returncode, "tar")


@contextmanager
def docker_engine(folder: Path) -> Generator[DockerEngine]:
    """The engine of this machine; where there is none, a private one in a folder, stopped at the end.

    Raises:
        RuntimeError: there is none, and none can be made.
    """
    found = _running_engine()
    if found is not None:
        yield found
        return
    if sys.platform != "linux" or os.geteuid() != 0:
        raise RuntimeError(
            "no Docker engine answers: start Docker, or be root on Debian, where one is started for the test"
        )
    _install()
    with _private_engine(folder) as private:
        yield private


def _running_engine() -> DockerEngine | None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        return None
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return DockerEngine(docker, (docker, "compose"))
    compose = shutil.which("docker-compose")
    return None if compose is None else DockerEngine(docker, (compose,), _BUILDKIT)


_BUILDKIT = {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}


def _install() -> None:
    programs = ("/usr/sbin/dockerd", "/usr/bin/docker", "/usr/bin/docker-compose", "/usr/sbin/debootstrap")
    if all(Path(program).exists() for program in programs):
        return
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"no Docker engine answers, and there is no apt-get to install {', '.join(PACKAGES)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, env=quiet, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _private_engine(folder: Path) -> Generator[DockerEngine]:
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "docker.sock"
    had_bridge = Path("/sys/class/net/docker0").exists()
    command = ["/usr/sbin/dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["-p", f"{folder}/docker.pid", "-H", f"unix://{socket}", "--ip", "127.0.0.1"]
    # Rules of the firewall would outlive it. Nothing here needs them: ports are published by a proxy.
    command += ["--default-ulimit", "nofile=20000:20000", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    # /usr/bin before everything else: a `docker` in /usr/local/bin may be another program of that name.
    path = f"/usr/bin:/usr/sbin:{os.environ['PATH']}"
    private = {"DOCKER_HOST": f"unix://{socket}", "PATH": path, **_BUILDKIT}
    engine = DockerEngine("/usr/bin/docker", ("/usr/bin/docker-compose",), private, is_private=True)
    try:
        deadline = time.monotonic() + _START_S
        while engine.run(engine.docker, "info", check=False, quiet=True) != 0:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start; its log: {folder}/dockerd.log")
            time.sleep(0.2)
        yield engine
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if not had_bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)


def _mirror() -> str:
    """Where this machine's own packages of the release come from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    for line in lines:
        uri, _, codename = line.partition(" ")
        if codename == RELEASE:
            return uri
    raise RuntimeError(f"apt knows no source of {RELEASE}")
