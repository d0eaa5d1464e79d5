"""Health probes and the trace receiver, as containers run them.

python -m pytest tests/integration/test_deploy_programs.py
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from tests.support.services import Service, inference_service, running

ROOT = Path(__file__).resolve().parents[2]
RECEIVER = ROOT / "deploy" / "trace_receiver.py"


def probe(module: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Where a receiver listens, and the folder that it writes to."""
    folder = tmp_path_factory.mktemp("traces")
    command = [sys.executable, str(RECEIVER), "--port", "0", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready = re.fullmatch(r"trace-receiver ready on (\S+)\n", process.stdout.readline())
        assert ready
        yield ready[1], folder
        process.terminate()
        assert process.wait(10) == 0


def test_probes_of_running_services(inference: Service, analysis: Service, gateway: Service) -> None:
    assert probe("neuroscope_inference.probe", inference.target).returncode == 0
    assert probe("neuroscope_analysis.probe", analysis.target).returncode == 0
    assert probe("neuroscope_gateway.probe", gateway.target).returncode == 0


def test_a_probe_takes_the_socket_of_a_service_with_a_certificate(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    for name, blobs in (("cert", certificate.cert_chain_pems), ("key", [certificate.private_key_pem])):
        (tmp_path / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
    path = tmp_path / "s"
    tls = ("--tls-certificate", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"))
    with inference_service(llama_dir, arguments=("--unix-socket", str(path), "--token", "t", *tls)) as service:
        assert probe("neuroscope_inference.probe", service.target).returncode == 1  # the port wants a certificate
        monkeypatch.setenv("NEUROSCOPE_INFERENCE_UNIX_SOCKET", str(path))
        assert probe("neuroscope_inference.probe").returncode == 0


def test_probes_where_nothing_serves() -> None:
    done = probe("neuroscope_inference.probe", "127.0.0.1:9")
    assert (done.returncode, done.stderr) == (1, "127.0.0.1:9: UNAVAILABLE\n")
    assert probe("neuroscope_analysis.probe", "127.0.0.1:9").returncode == 1
    with running("neuroscope_gateway", "--port", "0", "--inference", "127.0.0.1:9") as gateway:
        alone = probe("neuroscope_gateway.probe", gateway.target)
    assert alone.returncode == 1
    assert "503" in alone.stderr
    gone = probe("neuroscope_gateway.probe", gateway.target)
    assert gone.returncode == 1
    assert gateway.target in gone.stderr


def test_a_request_becomes_a_page(receiver: tuple[str, Path], llama_dir: Path) -> None:
    url, folder = receiver
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with (
        inference_service(llama_dir, environment=collector) as inference,
        running("neuroscope_gateway", "--port", "0", "--inference", inference.target, environment=collector) as gateway,
    ):
        assert probe("neuroscope_gateway.probe", gateway.target).returncode == 0
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        answer = httpx.post(f"{gateway.target}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200
        trace_id = answer.headers["x-request-id"]
    # A program tells its last spans before it ends; the receiver writes them within its next second.
    html, perfetto = folder / f"{trace_id}.html", folder / f"{trace_id}.json"
    deadline = time.monotonic() + 20
    names: set[str] = set()
    while not {"POST /v1/chat/completions", "Generate"} <= names and time.monotonic() < deadline:
        time.sleep(0.1)
        if perfetto.exists():
            names = {event["name"] for event in json.loads(perfetto.read_text())["traceEvents"]}
    assert {"POST /v1/chat/completions", "Generate"} <= names
    assert any("decode" in name for name in names)
    page = httpx.get(url, timeout=5).text
    assert f"{trace_id}.html" in page
    assert httpx.get(f"{url}/{trace_id}.html", timeout=5).text == html.read_text()
    texts = [file.read_text() for file in folder.glob("*.json")]
    assert not any("GET /health" in text for text in texts), "health checks are not traced"


def test_the_receiver_refuses_what_is_not_for_it(receiver: tuple[str, Path]) -> None:
    url, folder = receiver
    (folder.parent / "secret.json").write_text("{}")
    assert httpx.post(f"{url}/v1/traces", content=b"no spans", timeout=5).status_code == 400
    assert httpx.post(f"{url}/v1/logs", content=b"", timeout=5).status_code == 404
    assert httpx.post(f"{url}/v1/metrics", content=b"", timeout=5).status_code == 200
    assert httpx.get(f"{url}/..%2Fsecret.json", timeout=5).status_code == 404
    assert httpx.get(f"{url}/../secret.json", timeout=5).status_code == 404
    assert httpx.get(url, headers={"Host": "evil.example"}, timeout=5).status_code == 403
    assert (
        subprocess.run(
            [sys.executable, str(RECEIVER), "--probe", "--port", url.rsplit(":", 1)[1]], timeout=30, check=False
        ).returncode
        == 0
    )
