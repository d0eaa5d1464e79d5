"""Clients on the service's own host: Unix domain sockets, and tensors through shared memory.

python -m pytest tests/integration/test_same_host.py
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neuroscope import AsyncClient, Client
from neuroscope.wire.shared_memory import MappedMemory
from tests.support import services
from tests.support.services import Service, inference_service

# A long prompt makes patterns and logits of some MB.
PROMPT = [0, *(10 + index % 40 for index in range(511))]
SITES = ["attention_pattern", "resid_post", "logits"]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def service(llama_dir: Path, runtime: Path) -> Iterator[Service]:
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    arguments = ("--unix-socket", str(runtime / "socket"), "--max-streams-per-client", "8")
    with inference_service(llama_dir, arguments=arguments, environment=environment) as running:
        yield running
    assert list(runtime.iterdir()) == []


@pytest.fixture(scope="module")
def target(service: Service, runtime: Path) -> str:
    return f"unix:{runtime / 'socket'}"


def read(client: Client, *, tokens: int = 1) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for token in client.generate(PROMPT, hooks=SITES, max_tokens=tokens, keep=False, ignore_eos=True):
        for hook_id, pieces in token.activations.items():
            for index, piece in enumerate(pieces):
                found[f"{token.step} {hook_id} {index}"] = piece.array.copy()
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def shared_bytes(client: Client) -> int:
    return client.workload().shared_memory_bytes


def test_the_socket_is_its_owners_alone(service: Service, runtime: Path) -> None:
    assert (runtime / "socket").stat().st_mode & 0o777 == 0o600
    assert f"also listens on unix:{runtime / 'socket'}" in service.log


def test_the_same_bytes_come_over_tcp_a_unix_socket_and_shared_memory(service: Service, target: str) -> None:
    with Client(service.target, shared_memory=False) as over_tcp:
        before = shared_bytes(over_tcp)
        expected = read(over_tcp, tokens=3)
        assert shared_bytes(over_tcp) == before
        for where in (service.target, target):
            with Client(where) as client:
                begin = shared_bytes(client)
                assert_same(read(client, tokens=3), expected)
                # The first frames may leave before the client has mapped the memory.
                assert shared_bytes(client) - begin > sum(array.nbytes for array in expected.values()) / 3
        with Client(target, shared_memory=False) as client:
            begin = shared_bytes(client)
            assert_same(read(client, tokens=3), expected)
            assert shared_bytes(client) == begin


def test_captures_and_kept_streams_too(target: str, service: Service) -> None:
    with Client(service.target, shared_memory=False) as over_tcp, Client(target) as client:
        expected = over_tcp.capture(PROMPT, SITES)
        for cache in (
            client.capture(PROMPT, SITES),
            client.capture(PROMPT, SITES, resumable=True, capture_id="kept"),
            client.resume_capture("kept"),
            over_tcp.resume_capture("kept"),
        ):
            assert cache.checksums() == expected.checksums()
            for key in expected:
                np.testing.assert_array_equal(cache[key], expected[key])
        assert shared_bytes(client) > 0


def test_the_asynchronous_client_does_the_same(target: str) -> None:
    async def run() -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        async with AsyncClient(target) as client:
            async for token in client.generate(PROMPT, hooks=SITES, max_tokens=2, keep=False, ignore_eos=True):
                for hook_id, pieces in token.activations.items():
                    for index, piece in enumerate(pieces):
                        found[f"{token.step} {hook_id} {index}"] = piece.array.copy()
        return found

    with Client(target, shared_memory=False) as client:
        assert_same(asyncio.run(run()), read(client, tokens=2))


def test_a_reader_that_keeps_every_view_gets_the_rest_in_the_stream(target: str) -> None:
    with Client(target, shared_memory=False) as plain:
        expected = read(plain, tokens=2)
    with Client(target) as client:
        kept: list[dict[str, np.ndarray]] = []
        for _ in range(4):  # more than the memory of all these streams holds
            tokens = list(client.generate(PROMPT, hooks=SITES, max_tokens=2, keep=False, ignore_eos=True))
            kept.append(
                {
                    f"{token.step} {hook_id} {index}": piece.array
                    for token in tokens
                    for hook_id, pieces in token.activations.items()
                    for index, piece in enumerate(pieces)
                }
            )
        for found in kept:
            assert_same(found, expected)


def test_a_client_that_cannot_open_the_file_gets_bytes(target: str, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(MappedMemory, "open", lambda offer: None)
    with Client(target) as client, caplog.at_level("DEBUG", "neuroscope.wire.shared_memory_client"):
        before = shared_bytes(client)
        assert read(client)
        assert shared_bytes(client) == before
    assert "another host" in caplog.text


_DYING = """
import os, signal, sys
from neuroscope import Client
client = Client(sys.argv[1])
for token in client.generate([0] * 511, hooks=["attention_pattern"], max_tokens=400, keep=False, ignore_eos=True):
    if token.step == 2:
        print("read", flush=True)
        signal.pause()
"""


def test_a_client_that_is_killed_leaves_nothing(target: str, runtime: Path) -> None:
    with Client(target) as client:
        command = [sys.executable, "-c", _DYING, target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "read\n"
            assert client.workload().shared_memory_streams == 1
            reader.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while client.workload().shared_memory_streams or client.workload().streams:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        left = [path.name for folder in runtime.glob("neuroscope-shared-*") for path in folder.iterdir()]
        assert left == ["lock"]
        assert read(client)


def test_without_memory_to_share_everything_is_as_over_tcp(llama_dir: Path) -> None:
    with (
        inference_service(llama_dir, arguments=("--shared-memory-bytes", "0")) as service,
        Client(service.target) as client,
    ):
        assert read(client)
        assert shared_bytes(client) == 0


def refusal(*arguments: str, tmp_path: Path) -> str:
    """What a service says that does not start; that of analysis, whose sockets are the same, starts sooner."""
    started = services.spawn("neuroscope_analysis", "--port", "0", *arguments, log_file=tmp_path / "log")
    assert started.process.wait(60) == 1
    return started.log


def test_a_socket_that_is_taken_a_file_or_too_long_is_refused(runtime: Path, target: str, tmp_path: Path) -> None:
    assert "another service listens there" in refusal("--unix-socket", str(runtime / "socket"), tmp_path=tmp_path)
    with Client(target) as client:
        assert client.models()  # the one that listens there was not disturbed
    (tmp_path / "file").write_text("precious")
    assert "a file of that name" in refusal("--unix-socket", str(tmp_path / "file"), tmp_path=tmp_path)
    assert (tmp_path / "file").read_text() == "precious"
    assert "more than 103 bytes" in refusal("--unix-socket", f"/tmp/{'x' * 120}", tmp_path=tmp_path)
    assert "cannot listen on" in refusal("--unix-socket", str(tmp_path / "absent" / "socket"), tmp_path=tmp_path)


def test_a_socket_that_a_killed_service_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    with inference_service(arguments=("--unix-socket", str(path))), Client(f"unix:{path}") as client:
        assert client.models() == []
    assert not path.exists()
    assert not list(tmp_path.iterdir())
