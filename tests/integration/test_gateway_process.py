"""The gateway as a process: ready line, port, drain.

python -m pytest tests/integration/test_gateway_process.py
"""

import os
import signal
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
from tests.support.fake_inference import FakeInference, Token
from tests.support.running_gateway import RunningGateway, running_gateway

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}
READY = "neuroscope-gateway ready on "


@pytest.fixture(scope="module")
def scripted() -> Generator[RunningGateway]:
    """A scripted inference service, with a gateway that is not used."""
    with running_gateway() as running:
        yield running


@pytest.fixture
def fake(scripted: RunningGateway) -> FakeInference:
    """The script, as new."""
    scripted.fake.reset()
    return scripted.fake


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


def test_it_says_when_it_is_ready_and_ends_cleanly() -> None:
    with process("--port", "0") as started:
        url = url_of(started)
        assert httpx.get(f"{url}/openapi.json", timeout=30).status_code == 200
        started.send_signal(signal.SIGTERM)
        out, _ = started.communicate(timeout=10)
        assert (started.returncode, out) == (0, "")


def test_a_taken_port_is_told_and_the_next_one_serves() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with process("--port", str(port)) as started:
            url = url_of(started)
            assert url != f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}/openapi.json", timeout=30).status_code == 200
            started.send_signal(signal.SIGINT)
            _, errors = started.communicate(timeout=10)
            assert started.returncode == 0
            assert f"port {port} is taken" in errors


@pytest.mark.parametrize("stream", [True, False])
def test_sigterm_lets_running_answers_end(scripted: RunningGateway, fake: FakeInference, stream: bool) -> None:
    fake.script.tokens = [Token(f"{number} ") for number in range(10)]
    fake.script.step_s = 0.1
    answers: list[httpx.Response] = []
    with process("--port", "0", "--inference", scripted.inference) as started:
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


def test_it_refuses_new_connections_while_it_drains(scripted: RunningGateway, fake: FakeInference) -> None:
    fake.script.step_s = 0.5
    with process("--port", "0", "--inference", scripted.inference) as started:
        url = url_of(started)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=HELLO | {"stream": True}) as response:
            started.send_signal(signal.SIGTERM)
            time.sleep(0.4)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            assert response.read().endswith(b"data: [DONE]\n\n")
        started.communicate(timeout=10)
        assert started.returncode == 0
