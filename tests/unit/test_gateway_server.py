"""The process: flags, port, ready line, drain.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_server.py"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from neuroscope_gateway import server
from neuroscope_gateway.__main__ import main
from neuroscope_gateway.settings import LOOPBACK_HOSTS, LOOPBACK_ORIGINS, GatewaySettings
from tests.support.fake_inference import FakeInference, Token
from tests.support.running_gateway import RunningGateway

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}
READY = "neuroscope-gateway ready on "


@contextmanager
def process(*arguments: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    """A gateway as a process; killed at the end if it still runs."""
    started = subprocess.Popen(
        [sys.executable, "-m", "neuroscope_gateway", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def url_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    line = started.stdout.readline()
    assert line.startswith(READY), line
    return line.removeprefix(READY).strip()


def test_the_defaults_are_loopback_only() -> None:
    settings = GatewaySettings()
    assert (settings.host, settings.port, settings.inference) == ("127.0.0.1", 8080, "127.0.0.1:50051")
    assert settings.allowed_hosts == LOOPBACK_HOSTS
    assert settings.allowed_origins == LOOPBACK_ORIGINS


def test_flags_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSCOPE_GATEWAY_PORT", "9000")
    monkeypatch.setenv("NEUROSCOPE_GATEWAY_ALLOWED_ORIGINS", "http://a, http://b:*")
    settings = GatewaySettings.parse(["--allowed-hosts", "x,y", "--allowed-hosts", "z", "--max-body-bytes", "5"])
    assert (settings.port, settings.max_body_bytes) == (9000, 5)
    assert settings.allowed_origins == ("http://a", "http://b:*")
    assert settings.allowed_hosts == ("x", "y", "z")
    assert GatewaySettings.parse(["--port", "9001"]).port == 9001


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in GatewaySettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "x"], "port"),
        (["--port", "70000"], "port"),
        (["--inference", "nowhere"], "inference"),
        (["--max-body-bytes", "0"], "max_body_bytes"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"neuroscope-gateway: {told}: ")


def test_the_address_it_listens_on_is_a_name_of_its_own() -> None:
    assert "192.168.1.5" in GatewaySettings(host="192.168.1.5").hosts()
    assert "[fe80::1]" in GatewaySettings(host="fe80::1").hosts()
    assert GatewaySettings(host="0.0.0.0").hosts() == frozenset(LOOPBACK_HOSTS)


def test_a_taken_port_gives_the_next_free_one(caplog: pytest.LogCaptureFixture) -> None:
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with server.listen("127.0.0.1", port) as second:
            assert port < second.getsockname()[1] < port + server.PORTS_TRIED
    assert f"port {port} is taken" in caplog.text


def test_addresses_as_urls() -> None:
    with server.listen("127.0.0.1", 0) as listener:
        assert server.url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        try:
            listener = server.listen("::1", 0)
        except OSError:
            return
        with listener:
            assert server.url(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_an_address_of_another_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen on 192.0.2.1:0" in capsys.readouterr().err


def test_it_says_when_it_is_ready_and_ends_cleanly() -> None:
    with process("--port", "0") as started:
        url = url_of(started)
        assert httpx.get(f"{url}/openapi.json").status_code == 200
        started.send_signal(signal.SIGTERM)
        out, _ = started.communicate(timeout=10)
        assert (started.returncode, out) == (0, "")


def test_a_taken_port_is_told_and_the_next_one_serves() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with process("--port", str(port)) as started:
            url = url_of(started)
            assert url != f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}/openapi.json").status_code == 200
            started.send_signal(signal.SIGINT)
            _, errors = started.communicate(timeout=10)
            assert started.returncode == 0
            assert f"port {port} is taken" in errors


@pytest.mark.parametrize("stream", [True, False])
def test_sigterm_lets_running_answers_end(gateway: RunningGateway, fake: FakeInference, stream: bool) -> None:
    fake.script.tokens = [Token(f"{number} ") for number in range(10)]
    fake.script.step_s = 0.1
    answers: list[httpx.Response] = []
    with process("--port", "0", "--inference", gateway.inference) as started:
        url = url_of(started)
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/v1/chat/completions", json=HELLO | {"stream": stream}, timeout=30)
            )
        )
        asking.start()
        assert fake.prefilling.wait(10)
        time.sleep(0.2)
        started.send_signal(signal.SIGTERM)
        asking.join(30)
        started.communicate(timeout=10)
        assert started.returncode == 0
    (answer,) = answers
    assert answer.status_code == 200
    assert '"finish_reason":"length"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n") == stream


def test_it_refuses_new_connections_while_it_drains(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.script.step_s = 0.5
    with process("--port", "0", "--inference", gateway.inference) as started:
        url = url_of(started)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=HELLO | {"stream": True}) as response:
            started.send_signal(signal.SIGTERM)
            time.sleep(0.4)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            assert response.read().endswith(b"data: [DONE]\n\n")
        started.communicate(timeout=10)
        assert started.returncode == 0
