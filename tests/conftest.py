"""Fixtures shared by all tests. Models are made once per run, in a temporary folder."""

import gc
import os
import signal
from collections import Counter

# On the CPU mlx.compile runs g++ for about two seconds per new kernel; read when mlx is imported, so set before it.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

# Models of tests are new in every run; the user's cache is no place for what is proved of them.
os.environ.setdefault("NEUROSCOPE_INFERENCE_CACHE_SELF_TESTS", "false")

# Workers and services share the cores: threads of a BLAS that wait for work would take them from each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Workers have a COLUMNS of their own, which would be the width of every table. And what they import and collect stays:
# the garbage collector need not go through it time and again.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.pop("COLUMNS", None)
    gc.disable()

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The BLAS that the service uses; it must be loaded before mlx, which test modules import as they are collected.
from neuroscope_inference import blas

blas.load()

from pathlib import Path

import pytest

from tests.support.random_models import make_model


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama: 4 layers, width 128, 8 heads of 16, 2 key/value heads, 320 neurons, 512 tokens, untied head."""
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random gpt2: 4 layers, width 128, 8 heads of 16, 512 neurons, 512 tokens, learnt positions, tied head."""
    return make_model("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def bundled_model_dir() -> Path:
    """The trained model that comes with the repository."""
    folder = Path(__file__).parents[1] / "models" / "neuroscope-tiny"
    assert (folder / "config.json").is_file(), f"the bundled model is missing: {folder}"
    return folder


@pytest.fixture(scope="session", autouse=True)
def spool_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Services of the tests keep streams in a folder of the tests."""
    os.environ["NEUROSCOPE_INFERENCE_SPOOL_DIR"] = str(tmp_path_factory.mktemp("spools") / "spool")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run may be told."""
    parser.addoption(
        "--rest-cases",
        type=int,
        default=300,
        help="requests that schemathesis makes for the gateway",
    )
    parser.addoption(
        "--fuzz-cases",
        type=int,
        default=400,
        help="spoilt requests that the inference service is sent over gRPC",
    )
    parser.addoption(
        "--analysis-cases",
        type=int,
        default=60,
        help="spoilt requests that the analysis service is sent over gRPC",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=4,
        help="times that the inference service is killed while it keeps streams",
    )


def pytest_collection_finish() -> None:
    """Garbage is collected from here on, among what tests make."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line names what was not run, and why."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")
    )
    if reasons:
        terminalreporter.line("not run: " + ", ".join(f"{count} ({reason})" for reason, count in reasons.items()))
