"""The command `neuroscope` for real: the demo, the supervisor around real services, and every other command."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import ActivationCache, Client
from neuroscope.errors import NeuroScopeIntegrationError, StreamingError
from tests.support import shell
from tests.support.patience import eventually
from tests.support.services import Service

ENVIRONMENT = {"COLUMNS": "140", "MLX_DISABLE_COMPILE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_COLOR": "1"}
SERVICES = ["neuroscope-client", "neuroscope-gateway", "neuroscope-inference"]


def neuroscope(*arguments: object, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuroscope.cli", *map(str, arguments)],
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def commands_with(text: str) -> list[str]:
    """Command lines of running processes that contain a text."""
    listing = subprocess.check_output(["ps", "-axww", "-o", "command="], text=True)
    return [line for line in listing.splitlines() if text in line]


# The demo.


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, bundled_model_dir: Path) -> tuple[Path, str]:
    """One run of the demo with the bundled model: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    run = neuroscope("demo", "--output", folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, run.stdout


def test_the_demo_verifies_everything_that_it_claims(demo: tuple[Path, str]):
    _, printed = demo
    assert "all 7 claims hold" in printed
    assert "✗" not in printed
    for claim in (
        "gRPC and REST carry the same bits",
        "token by token equals one forward pass",
        "a circuit copies",
        "nothing is left",
    ):
        assert f"✓ {claim}" in printed
    assert "Paris" in printed


def test_the_demo_leaves_nothing_running(demo: tuple[Path, str]):
    _, printed = demo
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", printed)]
    assert len(ports) == 2  # what is told; the analysis service is not
    assert not any(listens(port) for port in ports)
    assert commands_with(f"--inference 127.0.0.1:{ports[0]}") == []


def test_the_demo_writes_its_files(demo: tuple[Path, str]):
    folder, _ = demo
    assert sorted(path.name for path in folder.iterdir()) == [
        "capture.png",
        "capture.safetensors",
        "circuit.html",
        "circuit.png",
        "trace.html",
        "trace.json",
    ]
    cache = ActivationCache.load(folder / "capture.safetensors")
    residual = cache.stack("resid_post")
    pattern = cache.stack("attention_pattern")
    assert residual.shape[:2] == pattern.shape[:2]
    assert len(cache.stack("mlp_out")) == len(residual)
    np.testing.assert_allclose(pattern.astype(np.float32).sum(-1), 1, atol=1e-3)
    for picture in ("capture.png", "circuit.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_demos_trace_is_one_tree_over_all_services(demo: tuple[Path, str]):
    folder, _ = demo
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert sorted(processes.values()) == SERVICES
    assert len({span["args"]["trace_id"] for span in spans}) == 1
    counts = Counter(span["name"] for span in spans)
    assert counts["neuroscope demo"] == 1
    assert counts["Generate"] == 2
    assert counts["Capture"] == 1
    assert counts["prefill"] == 3
    assert counts["decode"] >= 2
    html = (folder / "trace.html").read_text(encoding="utf-8")
    assert "the parent is not in this trace" not in html


def test_a_demo_without_a_lens_says_so(gpt2_dir: Path, tmp_path: Path):
    run = neuroscope("demo", "--model", gpt2_dir, "--output", tmp_path / "out", "--max-tokens", 3)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no logit lens" in run.stdout
    assert "no circuit: the mean difference" in run.stdout  # it cannot copy
    assert "all 5 claims hold" in run.stdout


def test_a_demo_whose_model_is_missing_fails_and_leaves_nothing(tmp_path: Path):
    missing = tmp_path / "nowhere"
    run = neuroscope("demo", "--model", missing, "--output", tmp_path / "out")
    assert run.returncode == 1
    assert run.stderr.startswith("error: neuroscope-inference did not start")
    assert "Traceback" not in run.stdout + run.stderr
    assert commands_with(str(missing)) == []


# The services.


@contextmanager
def up(model: Path, log: Path, *arguments: object) -> Generator[tuple[subprocess.Popen[bytes], str, str]]:
    """`neuroscope up` with ports of its own: the process, the gRPC target and the URL."""
    command = [sys.executable, "-m", "neuroscope.cli", "up", "--model", model, "--port-inference", 0]
    command += ["--port-analysis", 0, "--port-gateway", 0, *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), env={**os.environ, **ENVIRONMENT}, stdout=file, stderr=file)
    try:
        eventually(lambda: "Ctrl-C stops it" in log.read_text() or process.poll() is not None)
        found = re.search(r"inference ready on (\S+)[\s\S]*gateway ready on (\S+)", log.read_text())
        assert found is not None, log.read_text()
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.wait()


def refuses(client: Client) -> bool:
    """Whether nothing new begins."""
    try:
        client.models()
    except NeuroScopeIntegrationError:
        return True
    return False


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_up_serves_until_it_is_told_to_stop(llama_dir: Path, tmp_path: Path, number: signal.Signals, exit_code: int):
    """What runs then comes to its end, and nothing new begins."""
    log, trace = tmp_path / "log", tmp_path / "up.json"
    with up(llama_dir, log, "--trace", trace) as (process, target, url), Client(target) as client:
        assert [model.model_id for model in client.models()] == ["llama"]
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            assert json.load(response)["status"] == "healthy"
        generation = client.generate("hello", hooks=["resid_post"], max_tokens=400, ignore_eos=True)
        assert next(generation).step == 0
        process.send_signal(number)
        eventually(lambda: refuses(client))
        assert process.poll() is None
        assert generation.wait().usage.completion_tokens == 400
        assert process.wait(60) == exit_code
    assert not listens(int(target.rpartition(":")[2]))
    assert not listens(int(url.rpartition(":")[2]))
    assert commands_with(f"--inference {target}") == []
    spans = Counter(event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X")
    assert spans["Generate"] == 1
    assert spans["GET /health"] == 1


@contextmanager
def at_once() -> Generator[None]:
    begin = time.monotonic()
    yield
    took_s = time.monotonic() - begin
    print(f"after {1e3 * took_s:.0f} ms")
    assert took_s < 3  # a ping timeout takes 10 s and more; a loaded machine takes its time


def test_up_starts_a_killed_service_again_and_what_it_kept_is_there(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NEUROSCOPE_INFERENCE_SPOOL_DIR", str(tmp_path / "spool"))
    log = tmp_path / "log"
    with up(llama_dir, log) as (process, target, url), Client(target) as client:
        whole = client.capture("hello", ["resid_post", "attention_pattern"], resumable=True, capture_id="whole")
        options: dict[str, Any] = {"hooks": ["logits"], "max_tokens": 200, "ignore_eos": True, "max_steps_ahead": 1}
        half = client.generate("hello", resumable=True, generation_id="half", auto_advance=False, **options)
        paced = client.generate("hello", auto_advance=False, **options)
        assert next(half).step == next(paced).step == 0
        port = target.rpartition(":")[2]
        (line,) = subprocess.check_output(
            ["pgrep", "-f", f"neuroscope_inference --host 127.0.0.1 --port {port}"]
        ).split()
        os.kill(int(line), signal.SIGKILL)
        with at_once(), pytest.raises(StreamingError, match="disconnected"):
            paced.wait()
        with at_once(), pytest.raises(NeuroScopeIntegrationError, match="no inference service answers"):
            client.models()
        with at_once(), pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/v1/models", timeout=10)
        eventually(lambda: "neuroscope-inference is ready again" in log.read_text())
        assert "neuroscope-inference was killed by SIGKILL; starting it again in 0.5 s" in log.read_text()
        again = client.resume_capture("whole")  # tried again until the connection is there
        assert [model.model_id for model in client.models()] == ["llama"]
        assert again.checksums() == whole.checksums()
        for key in whole:
            np.testing.assert_array_equal(again[key], whole[key])
        with pytest.raises(StreamingError, match="broke off") as caught:
            client.resume_capture("half")
        rerun = client.resume_capture("half", restart_token=caught.value.restart_token)
        assert rerun.manifest is not None
        assert rerun.manifest.usage.completion_tokens == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


# The other commands, against a running service; where the process makes no difference, in this one.


def spans_of(file: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]


def test_generate_with_hooks_and_a_trace(inference: Service, tmp_path: Path):
    trace = tmp_path / "t.json"
    arguments = ["--hook", "resid_post", "--max-tokens", 4, "--raw", "--trace", trace]
    run = neuroscope("generate", "hello", *arguments, NEUROSCOPE_TARGET=inference.target)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("4 tensors") == 5
    names = Counter(span["name"] for span in spans_of(trace))
    assert names["neuroscope generate"] == names["Generate"] == names["prefill"] == 1
    assert names["decode"] == 3
    assert "the parent is not in this trace" not in trace.with_suffix(".html").read_text(encoding="utf-8")


def test_capture_says_what_it_would_cost(inference: Service, tmp_path: Path):
    file = tmp_path / "activations.safetensors"
    sites = ("-s", "resid_post", "-s", '{"component": "logits", "reduce": {"top_k": 5}}')
    run = shell.neuroscope(
        "capture", "hello there", *sites, "-o", file, "--estimate", "--model", "llama", "--target", inference.target
    )
    assert run.exit_code == 0, run.stderr
    assert not file.exists()
    with Client(inference.target) as client:
        tokens = len(client.tokenize("hello there", model_id="llama").ids)
    assert f"({tokens * (4 * 128 * 4 + 5 * 8)} bytes) in 1 chunks" in run.stdout
    assert "besides the weights" in run.stdout


def test_capture_writes_what_it_shows(inference: Service, tmp_path: Path):
    file = tmp_path / "c.safetensors"
    run = shell.neuroscope(
        "capture", "hello there", "-s", "resid_post,attention_pattern.1", "-o", file, "--target", inference.target
    )
    assert run.exit_code == 0, run.stderr
    cache = ActivationCache.load(file)
    assert len(cache) == 5
    assert str(cache["resid_post", 0].shape) in run.stdout


def test_hooks_of_a_real_model(inference: Service):
    points = json.loads(shell.neuroscope("hooks", "--json", "--target", inference.target).stdout)
    available = {point["point"] for point in points if point["available"]}
    assert {"embedding", "resid_post.3", "attention_pattern.0", "logits"} <= available
    assert all(point["reason"] for point in points if not point["available"])


def test_the_engine_in_this_process(llama_dir: Path, tmp_path: Path):
    trace = tmp_path / "t.json"
    run = neuroscope("--local", "generate", "hello", "--model", llama_dir, "--max-tokens", 3, "--raw", "--trace", trace)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert {"neuroscope generate", "LoadModel", "Generate", "decode"} <= {span["name"] for span in spans_of(trace)}


def test_an_unknown_site_names_its_neighbours(inference: Service):
    run = shell.neuroscope("capture", "hello", "-s", "resid_pots", "--target", inference.target)
    assert run.exit_code == 1
    assert "nearest: resid_post" in run.stderr
    assert run.stderr.count("\n") == 1


def test_keys_in_fewer_bits_than_the_model_allows(inference: Service):
    run = shell.neuroscope(
        "capture", "hello", "-s", "key", "--kv-bits", 8, "--model", "llama", "--target", inference.target
    )
    assert run.exit_code == 1
    assert "keys and values of llama stay as they are" in run.stderr


def test_the_lens_of_a_prompt(inference: Service, tmp_path: Path):
    file = tmp_path / "lens.png"
    run = shell.neuroscope("lens", "hello there", "--rank", "7", "--save", file, "--target", inference.target)
    assert run.exit_code == 0, run.stderr
    assert "resid_post.3" in run.stdout
    assert "KL" in run.stdout
    assert file.read_bytes().startswith(b"\x89PNG")
