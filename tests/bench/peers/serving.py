"""Plain chat completions, streamed to one client: mlx-lm's own server beside our gateway and inference service.

The same request to both, one after the other in an order that turns: the first token's time, tokens per second after
it, and CPU time of the processes that serve. Each request has a prompt that begins with another word, so that nobody
answers from a cache of prompts. Both run on the same BLAS with one thread, and must give the same text.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from tests.bench.models import BUNDLED, model_folder
from tests.bench.peers.agreement import require_same
from tests.bench.peers.weights import talking_folder
from tests.support import processes
from tests.support.services import inference_service, running

OURS = "NeuroScope's gateway"
MLX = "mlx-lm's server"
TALKING = "talking"
MODELS = (TALKING, BUNDLED)
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1", "HF_HUB_OFFLINE": "1"}
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Server:
    """Something that speaks OpenAI's chat completions."""

    name: str
    client: httpx.Client
    pids: Sequence[int]
    """Its processes."""

    def cpu_seconds(self) -> float:
        """Of all its processes."""
        return sum(map(processes.cpu_seconds, self.pids))


@dataclass(frozen=True)
class Answer:
    """What came of a request, and when."""

    text: str
    prompt_tokens: int
    tokens: int
    first_s: float
    """From the request to the first text."""
    wall_s: float
    """From the request to the end."""
    cpu_s: float
    """Of the server."""


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 10,
    tokens: int = 64,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models one after the other.

    Args:
        models: of MODELS: TALKING is a random llama of 12 layers and width 768 whose every token has a text.
        rounds: after one to warm up.
        tokens: that each request makes.
        progress: is told what begins.
    """
    cases: list[dict[str, Any]] = []
    for model in models:
        progress(f"{model}: a model")
        with talking_folder() if model == TALKING else model_folder(model) as folder:
            cases += measure(folder, rounds, tokens, progress=progress)
    return {"rounds": rounds, "tokens": tokens, "cases": cases}


def measure(
    folder: Path, rounds: int, tokens: int, *, progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Both servers with one model.

    Raises:
        DisagreementError: they give different texts.
    """
    with ExitStack() as stack:
        progress(f"{folder.name}: loading")
        servers = [stack.enter_context(_ours(folder)), stack.enter_context(_mlx(folder))]
        (model,) = servers[0].client.get("/v1/models").json()["data"]
        bias = {str(token): -100.0 for token in model["eos_token_ids"]}
        answers: dict[str, list[Answer]] = {server.name: [] for server in servers}
        for index in range(rounds + 1):
            found: dict[str, Answer] = {}
            for server in servers[:: 1 if index % 2 else -1]:
                progress(f"{folder.name}: {server.name}, round {index} of {rounds}")
                found[server.name] = _ask(server, index, tokens, bias)
            require_same("text", {name: (answer.text, answer.prompt_tokens) for name, answer in found.items()})
            for name, answer in found.items() if index else ():
                answers[name].append(answer)
    return [{"model": folder.name, "server": name, **_figures(answers, name)} for name in answers]


def _ask(server: Server, index: int, tokens: int, bias: Mapping[str, float]) -> Answer:
    content = f"{index} times Mary and John went to the store, and John gave a drink to whom? " * 2
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": bias,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, usage, first_s = "", {}, 0.0
    begin, begin_cpu_s = time.perf_counter(), server.cpu_seconds()
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            chunk = json.loads(data)
            piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
            if piece and not text:
                first_s = time.perf_counter() - begin
            text += piece or ""
            usage = chunk.get("usage") or usage
    wall_s = time.perf_counter() - begin
    time.sleep(0.05)  # what a server does after its last byte counts too
    cpu_s = server.cpu_seconds() - begin_cpu_s
    assert usage["completion_tokens"] == tokens, usage
    return Answer(text, usage["prompt_tokens"], tokens, first_s, wall_s, cpu_s)


def _figures(answers: Mapping[str, Sequence[Answer]], name: str) -> dict[str, Any]:
    own, mlx = answers[name], answers[MLX]
    figures: dict[str, Any] = {
        "first_token_ms": statistics.median(1e3 * answer.first_s for answer in own),
        "tokens_per_s": statistics.median(map(_rate, own)),
        "cpu_ms_per_token": statistics.median(1e3 * answer.cpu_s / answer.tokens for answer in own),
        "prompt_tokens": own[0].prompt_tokens,
    }
    pairs = list(zip(own, mlx, strict=True))
    figures["first_token_to_mlx"] = statistics.median(one.first_s / other.first_s for one, other in pairs)
    figures["tokens_per_s_to_mlx"] = statistics.median(_rate(one) / _rate(other) for one, other in pairs)
    return figures


def _rate(answer: Answer) -> float:
    return (answer.tokens - 1) / (answer.wall_s - answer.first_s)


@contextmanager
def _ours(folder: Path) -> Generator[Server]:
    with (
        inference_service(folder, environment=_ENVIRONMENT) as service,
        running("neuroscope_gateway", "--port", "0", "--inference", service.target) as gateway,
        httpx.Client(base_url=gateway.target, timeout=_TIMEOUT_S) as client,
    ):
        yield Server(OURS, client, [service.process.pid, gateway.process.pid])


@contextmanager
def _mlx(folder: Path) -> Generator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    module = "tests.bench.peers.mlx_server"
    command = [sys.executable, "-m", module, "--model", str(folder), "--port", str(port), "--log-level", "ERROR"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, env={**os.environ, **_ENVIRONMENT}, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_TIMEOUT_S) as client,
    ):
        try:
            _wait(client, process)
            yield Server(MLX, client, [process.pid])
        finally:
            process.terminate()


def _wait(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ChildProcessError(f"{MLX} ended with status {process.returncode}")
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"{MLX} did not answer within {_TIMEOUT_S} s")


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"Chat completions of {result['tokens']} tokens, streamed, medians of {result['rounds']} rounds",
        title_justify="left",
    )
    columns = "model", "server", "first token ms", "x mlx-lm", "tokens/s", "x mlx-lm", "CPU ms/token"
    for index, column in enumerate(columns):
        found.add_column(column, justify="left" if index < 2 else "right")
    for case in result["cases"]:
        found.add_row(
            case["model"],
            case["server"],
            f"{case['first_token_ms']:.1f}",
            f"{case['first_token_to_mlx']:.2f}",
            f"{case['tokens_per_s']:.1f}",
            f"{case['tokens_per_s_to_mlx']:.2f}",
            f"{case['cpu_ms_per_token']:.2f}",
        )
    return found
