"""neuroscope.cli.checks and doctor: what is found, what is advised, and when the exit code is 1."""

import http.server
import importlib.metadata
import json
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroscope.cli import checks
from neuroscope.cli.app import app
from neuroscope.cli.checks import CheckResult, Status
from tests.support.running_gateway import RunningGateway, running_gateway


@pytest.fixture(scope="module")
def gateway() -> Generator[RunningGateway]:
    with running_gateway() as running:
        yield running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def by_subject(findings: list[CheckResult]) -> dict[str, CheckResult]:
    return {finding.subject.split()[0]: finding for finding in findings}


def test_the_machine_is_described():
    found = by_subject(list(checks.machine()))
    assert set(found) == {"Python", "platform", "memory", "model", "own"}
    assert found["Python"].status is Status.OK
    assert "GB" in found["memory"].detail


def test_little_memory_and_disk_are_notes_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "_LITTLE_MEMORY_BYTES", 1e18)
    monkeypatch.setattr(checks, "_LITTLE_DISK_BYTES", 1e18)
    found = by_subject(list(checks.machine()))
    assert found["memory"].status is Status.WARNING
    assert "quantised" in found["memory"].hint
    assert found["model"].status is Status.OK or "free some space" in found["model"].hint


def test_a_missing_dependency_is_broken_and_a_missing_engine_is_a_note(monkeypatch: pytest.MonkeyPatch):
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("xxhash", "mlx-lm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = by_subject(list(checks.packages()))
    assert found["dependencies"].status is Status.FAILED
    assert "xxhash" in found["dependencies"].detail
    assert found["mlx-lm"].status is Status.WARNING
    assert "neuroscope-mlx[inference]" in found["mlx-lm"].hint


@pytest.mark.parametrize(
    ("output", "status", "detail"),
    [
        ('{"source": "prepared", "path": "/x", "gflops": 51.26, "reason": null}', Status.OK, "prepared, 51.3"),
        ('{"source": "bundled", "gflops": 2.8, "reason": "no patchelf"}', Status.WARNING, "bundled, 2.8"),
        ("prepared /x/lib.so: 51.3 GFLOP/s (float32, 1024 x 1024)", Status.OK, "prepared, 51.3"),
        ("bundled: 2.8 GFLOP/s (float32)\n  because no patchelf", Status.WARNING, "bundled, 2.8"),
    ],
)
def test_the_blas_report_is_read(output: str, status: Status, detail: str):
    finding = checks.read_blas_report(output)
    assert finding.status is status
    assert finding.detail.startswith(detail)
    assert ("no patchelf" in finding.hint) == ("no patchelf" in output)


def test_mlx_really_computes():
    (finding,) = checks.engine()
    assert finding.status is not Status.FAILED
    assert "GFLOP/s" in finding.detail


def test_free_ports_are_notes():
    found = by_subject(
        list(checks.services(f"127.0.0.1:{free_port()}", free_port(), analysis=f"127.0.0.1:{free_port()}"))
    )
    for finding in found.values():
        assert finding.status is Status.WARNING
        assert finding.hint == "start: neuroscope up"


def test_services_that_answer_are_good(gateway: RunningGateway):
    gateway.fake.reset()
    port = int(gateway.url.rpartition(":")[2])
    found = by_subject(list(checks.services(gateway.inference, port)))
    assert found["gRPC"].detail == "answers; models: tiny"
    assert found["load"].detail.startswith("2 streams, 3 rows decode, the last run waited 0.5 ms; weights 1.0 GB,")
    assert found["REST"].status is Status.OK


def test_a_service_without_a_model_says_how_to_load_one(gateway: RunningGateway):
    gateway.fake.reset()
    gateway.fake.models.clear()
    found = by_subject(list(checks.services(gateway.inference, free_port())))
    assert "neuroscope models load" in found["gRPC"].hint


def test_a_port_that_another_program_has_is_told(monkeypatch: pytest.MonkeyPatch):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            found = by_subject(list(checks.services(f"127.0.0.1:{server.server_port}", server.server_port)))
        finally:
            server.shutdown()
            thread.join()
    assert found["gRPC"].status is Status.FAILED
    assert "--port-inference" in found["gRPC"].hint
    assert found["REST"].detail == "another program answers"
    assert "--port-gateway" in found["REST"].hint


def test_the_bundled_model_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(checks, "bundled_model", lambda: None)
    (finding,) = checks.models()
    assert "--model PATH" in finding.hint
    monkeypatch.setattr(checks, "bundled_model", lambda: tmp_path)
    (finding,) = checks.models()
    assert finding.status is Status.FAILED
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    (finding,) = checks.models()
    assert finding.status is Status.OK


def test_exit_code_and_json(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "engine", lambda: iter([CheckResult("BLAS", Status.OK, "fast")]))
    arguments = ["doctor", "--target", f"127.0.0.1:{free_port()}", "--port-gateway", str(free_port())]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["engine"] == [{"subject": "BLAS", "status": "ok", "detail": "fast", "hint": ""}]
    monkeypatch.setattr(checks, "engine", lambda: iter([CheckResult("MLX", Status.FAILED, "no", "reinstall [it]")]))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "reinstall [it]" in result.stdout
    assert "1 of" in result.stdout
