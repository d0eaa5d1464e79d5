"""The checks of `neuroscope doctor`. A check yields results and never raises."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neuroscope.analysis import DEFAULT_ANALYSIS_TARGET
from neuroscope.cache_folder import cache_folder
from neuroscope.cli.bundled import NAME, bundled_model
from neuroscope.client import Client
from neuroscope.errors import (
    InvalidRequestError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    UnauthenticatedError,
)

_ESSENTIAL = ("grpcio", "protobuf", "numpy", "safetensors", "xxhash", "opentelemetry-sdk")
_ENGINE = ("mlx", "mlx-lm")
_OLDEST_PYTHON = (3, 11)
_SLOW_GFLOPS = 10.0
_LITTLE_MEMORY_BYTES = 4e9
_LITTLE_DISK_BYTES = 5e9
_BLAS_TIMEOUT_S = 120.0
_TIMEOUT_S = 3.0


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but less well than it could."""
    FAILED = "failed"
    """Something essential does not work."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    subject: str
    status: Status
    detail: str
    hint: str = ""
    """How to fix it."""


def machine() -> Iterator[CheckResult]:
    """Python, the platform, memory and disk."""
    version = platform.python_version()
    if sys.version_info >= _OLDEST_PYTHON:
        yield CheckResult("Python", Status.OK, f"{version} at {sys.executable}")
    else:
        yield CheckResult("Python", Status.FAILED, version, "Python 3.11 or newer is needed")
    where = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    yield CheckResult("platform", Status.OK, where + (", Metal" if apple else ", MLX on the CPU"))
    yield _memory()
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield _disk("model cache", hub)
    yield _disk("own cache", cache_folder(), little_bytes=0.2e9)


def packages() -> Iterator[CheckResult]:
    """Versions of what is installed."""
    yield CheckResult("neuroscope-mlx", Status.OK, _version("neuroscope-mlx") or "run from its source tree")
    missing = [name for name in _ESSENTIAL if _version(name) is None]
    if missing:
        hint = "reinstall: pip install neuroscope-mlx"
        yield CheckResult("dependencies", Status.FAILED, f"missing: {', '.join(missing)}", hint)
    else:
        found = ", ".join(f"{name} {_version(name)}" for name in _ESSENTIAL[:3])
        yield CheckResult("dependencies", Status.OK, found)
    for name in _ENGINE:
        version = _version(name)
        hint = "" if version else "pip install 'neuroscope-mlx[inference]', unless the engine runs on another machine"
        yield CheckResult(name, Status.OK if version else Status.WARNING, version or "not installed", hint)
    if _version("matplotlib") is None:
        yield CheckResult(
            "pictures", Status.WARNING, "matplotlib is not installed", "pip install 'neuroscope-mlx[viz]'"
        )


def engine() -> Iterator[CheckResult]:
    """Whether MLX computes, with which BLAS and how fast. Takes some seconds."""
    if importlib.util.find_spec("neuroscope_inference") is None:
        yield CheckResult("BLAS", Status.WARNING, "the inference service is not installed here")
        return
    command = [sys.executable, "-m", "neuroscope_inference.blas", "--json"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_BLAS_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield CheckResult(
            "BLAS", Status.FAILED, f"no answer within {_BLAS_TIMEOUT_S:g} s", "run: " + " ".join(command[1:])
        )
        return
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        yield CheckResult(
            "MLX", Status.FAILED, last, "reinstall: pip install --force-reinstall 'neuroscope-mlx[inference]'"
        )
        return
    yield read_blas_report(run.stdout)


def read_blas_report(output: str) -> CheckResult:
    """What `python -m neuroscope_inference.blas` says, as JSON or as text."""
    source, gflops, reason = "unknown", 0.0, ""
    try:
        told = json.loads(output)
        source, gflops, reason = str(told["source"]), float(told["gflops"]), str(told.get("reason") or "")
    except (ValueError, KeyError, TypeError):
        if match := re.search(r"^(\w+).*: ([\d.]+) GFLOP/s", output, re.MULTILINE):
            source, gflops = match[1], float(match[2])
        if match := re.search(r"because (.*)", output):
            reason = match[1]
    found = f"{source}, {gflops:.1f} GFLOP/s"
    if source == "bundled" or gflops < _SLOW_GFLOPS:
        return CheckResult("BLAS", Status.WARNING, found, f"slow: {reason}" if reason else "slow on the CPU")
    return CheckResult("BLAS", Status.OK, found)


def models() -> Iterator[CheckResult]:
    """The bundled model's files."""
    folder = bundled_model()
    if folder is None:
        hint = "name a model yourself: neuroscope up --model PATH"
        yield CheckResult("bundled model", Status.WARNING, f"{NAME} is not in this installation", hint)
        return
    lacking = [name for name in ("model.safetensors", "tokenizer.json") if not (folder / name).is_file()]
    if lacking:
        yield CheckResult(
            "bundled model", Status.FAILED, f"{folder} lacks {', '.join(lacking)}", "fetch the repository anew"
        )
    else:
        yield CheckResult("bundled model", Status.OK, str(folder))


def services(
    target: str,
    gateway_port: int,
    connect: Callable[[float], Client] | None = None,
    analysis: str = DEFAULT_ANALYSIS_TARGET,
) -> Iterator[CheckResult]:
    """Who answers where the services are to be.

    Args:
        target: host:port of the inference service, or unix:path.
        gateway_port: port of the gateway, on the same host.
        connect: makes a client with that timeout in seconds; None: one without token and TLS.
        analysis: host:port of the analysis service.
    """
    host, _, port = ("127.0.0.1", "", "") if target.startswith("unix:") else target.rpartition(":")
    host = host or "127.0.0.1"
    if port.isdecimal() and not _is_listening(host, int(port)):
        yield CheckResult(
            f"gRPC {target}", Status.WARNING, "nothing runs here; the port is free", "start: neuroscope up"
        )
    else:
        yield from _inference(target, connect or (lambda timeout_s: Client(target, timeout_s=timeout_s)))
    yield _analysis(analysis)
    yield _gateway(host, gateway_port)


def _inference(target: str, connect: Callable[[float], Client]) -> Iterator[CheckResult]:
    subject = f"gRPC {target}"
    try:
        with connect(_TIMEOUT_S) as client:
            loaded, workload = [model.model_id for model in client.models()], client.workload()
    except NeuroScopeIntegrationError:
        hint = "end that program, or start elsewhere: neuroscope up --port-inference 50052"
        yield CheckResult(subject, Status.FAILED, "the port is taken by a program that is no inference service", hint)
        return
    except (UnauthenticatedError, InvalidRequestError) as error:
        yield CheckResult(subject, Status.FAILED, error.message, "options come first: neuroscope --token TOKEN doctor")
        return
    except MLXIntegrationError as error:
        yield CheckResult(subject, Status.FAILED, error.message, "look at the log of `neuroscope up`")
        return
    if loaded:
        yield CheckResult(subject, Status.OK, f"answers; models: {', '.join(loaded)}")
    else:
        yield CheckResult(
            subject, Status.WARNING, "answers; no model is loaded", "load one: neuroscope models load PATH"
        )
    budget = f" of {workload.weights_budget_bytes / 1e9:.1f}" if workload.weights_budget_bytes else ""
    yield CheckResult(
        "load",
        Status.OK,
        f"{workload.streams} streams, {workload.decoding_rows} rows decode, the last run waited "
        f"{workload.queue_wait_ms:.1f} ms; weights {workload.weights_bytes / 1e9:.1f}{budget} GB, "
        f"MLX holds {workload.active_memory_bytes / 1e9:.1f} GB, at most {workload.peak_memory_bytes / 1e9:.1f}; "
        f"{workload.shared_memory_streams} streams share memory with their clients, "
        f"{workload.shared_memory_bytes / 1e9:.1f} GB went through it",
    )


def _analysis(target: str) -> CheckResult:
    """Whether somebody listens there; what analyses say is between them and their callers."""
    subject = f"analysis {target}"
    host, _, port = target.rpartition(":")
    if port.isdecimal() and not _is_listening(host or "127.0.0.1", int(port)):
        return CheckResult(subject, Status.WARNING, "nothing runs here; the port is free", "start: neuroscope up")
    return CheckResult(subject, Status.OK, "listens")


def _gateway(host: str, port: int) -> CheckResult:
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    url = f"http://{host}:{port}"
    subject = f"REST {url}"
    if not _is_listening(host, port):
        return CheckResult(subject, Status.WARNING, "nothing runs here; the port is free", "start: neuroscope up")
    taken = f"end that program, or start elsewhere: neuroscope up --port-gateway {port + 1}"
    try:
        with urlopen(f"{url}/health", timeout=_TIMEOUT_S) as response:
            body = json.load(response)
    except HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        if "neuroscope-gateway" in text:
            return CheckResult(
                subject, Status.FAILED, "answers, but reaches no inference service", "restart: neuroscope up"
            )
        return CheckResult(subject, Status.WARNING, f"another program answers (status {error.code})", taken)
    except (URLError, ValueError, OSError):
        return CheckResult(subject, Status.WARNING, "the port is taken by a program that speaks no HTTP", taken)
    if not isinstance(body, dict) or "neuroscope" not in json.dumps(body):
        return CheckResult(subject, Status.WARNING, "another program answers", taken)
    return CheckResult(subject, Status.OK, f"answers; version {body.get('version', 'unknown')}")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _is_listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False


def _memory() -> CheckResult:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total_bytes / 1e9:.1f} GB"
    available_bytes = total_bytes
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file() and (match := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        available_bytes = int(match[1]) * 1024
        found = f"{available_bytes / 1e9:.1f} of {found} available"
    if available_bytes < _LITTLE_MEMORY_BYTES:
        hint = "close programs, or use a quantised model; weights and captures must fit"
        return CheckResult("memory", Status.WARNING, found, hint)
    return CheckResult("memory", Status.OK, found)


def _disk(subject: str, folder: Path, little_bytes: float = _LITTLE_DISK_BYTES) -> CheckResult:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / 1e9:.1f} GB free at {folder}"
    if not os.access(existing, os.W_OK):
        return CheckResult(
            subject, Status.WARNING, f"{folder} cannot be written to", "set HF_HOME, NEUROSCOPE_CACHE_DIR"
        )
    if free_bytes < little_bytes:
        return CheckResult(subject, Status.WARNING, found, "free some space before fetching models")
    return CheckResult(subject, Status.OK, found)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
