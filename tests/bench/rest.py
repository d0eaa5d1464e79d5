"""What the gateway adds: the same request over gRPC and over REST.

    python -m tests.bench.rest [--model llama|gpt2|bundled] [--rounds 10] [--tokens 64] [--json FILE]

One inference service, one gateway before it, and a client of each kind in a process of its own: the SDK over gRPC,
httpx over REST. A round asks every case once, in an order that turns; a ratio is the median over rounds of a case's
figure to that of gRPC with the same hooks in the same round, with its 90 % bootstrap interval; how much later the first
token comes is a difference. `text only` is a stream of tokens without captures; `every
residual point` captures resid_pre, resid_mid and resid_post of all layers at every step, as frames over gRPC and as
lines of JSON over REST. The end of text is forbidden by a bias, so that each case makes as many tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from neuroscope import Client
from tests.bench.intervals import interval
from tests.bench.models import MODELS, model_folder
from tests.bench.worker import Worker, answer
from tests.support.processes import cpu_seconds
from tests.support.services import inference_service, running

MESSAGES = [{"role": "user", "content": "When Mary and John went to the store, John gave a drink to whom? " * 2}]
POINTS = ("resid_pre", "resid_mid", "resid_post")
GRPC = "gRPC"
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Case:
    """A way to ask.

    Attributes:
        name: of the way.
        captures: whether every residual point is captured.
        form: of activations over REST.
    """

    name: str
    captures: bool
    form: str = ""

    @property
    def captured(self) -> str:
        """What a table says of it."""
        return "every residual point" if self.captures else "text only"


CASES = (
    Case(GRPC, captures=False),
    Case("REST, SSE", captures=False),
    Case(GRPC, captures=True),
    Case("REST, base64", captures=True, form="base64"),
    Case("REST, lists", captures=True, form="list"),
)


# The clients' processes.


class OverGrpc:
    """The SDK."""

    def __init__(self, target: str) -> None:
        self._client = Client(target)
        self._bias = dict.fromkeys(self._client.model().model.eos_token_ids, -100.0)

    def measure(self, tokens: int, hooks: Sequence[str], form: str) -> dict[str, Any]:
        """Seconds to the first token and to the last, bytes of tensors, CPU seconds of this process."""
        begin, begin_cpu_s = time.perf_counter(), time.process_time()
        how: dict[str, Any] = {"max_tokens": tokens, "logit_bias": self._bias, "keep": False}
        generation = self._client.generate(MESSAGES, hooks=hooks, **how)
        first_s, nbytes = 0.0, 0
        for token in generation:
            first_s = first_s or time.perf_counter() - begin
            nbytes += sum(piece.array.nbytes for pieces in token.activations.values() for piece in pieces)
        assert generation.usage.completion_tokens == tokens
        return _found(begin, begin_cpu_s, first_s, nbytes)


class OverRest:
    """httpx."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        (model,) = self._client.get("/v1/models").json()["data"]
        self._bias = {str(token): -100.0 for token in model["eos_token_ids"]}

    def measure(self, tokens: int, hooks: Sequence[str], form: str) -> dict[str, Any]:
        """The same; bytes are those of the body."""
        begin, begin_cpu_s = time.perf_counter(), time.process_time()
        body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": tokens, "logit_bias": self._bias, "stream": True}
        path = "/v1/chat/completions"
        if hooks:
            path += "/with_activations"
            body |= {"activation_hooks": [{"component": point} for point in hooks], "activation_format": form}
        else:
            body["stream_options"] = {"include_usage": True}
        first_s, nbytes, written = 0.0, 0, 0
        with self._client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                nbytes += len(line)
                text = line.removeprefix("data: ")
                if not text or text == "[DONE]":
                    continue
                chunk = json.loads(text)
                if not first_s and chunk["choices"] and (hooks or chunk["choices"][0]["delta"].get("content")):
                    first_s = time.perf_counter() - begin
                written = (chunk.get("usage") or {}).get("completion_tokens", written)
        assert written == tokens, (written, tokens)
        return _found(begin, begin_cpu_s, first_s, nbytes)


def _found(begin: float, begin_cpu_s: float, first_s: float, nbytes: int) -> dict[str, Any]:
    now, now_cpu_s = time.perf_counter(), time.process_time()
    return {"first_s": first_s, "wall_s": now - begin, "bytes": nbytes, "cpu_s": now_cpu_s - begin_cpu_s}


# The measuring process.


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 10,
    tokens: int = 64,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models one after the other.

    Args:
        models: of `tests.bench.models.MODELS`.
        rounds: after one to warm up.
        tokens: that each request makes.
        progress: is told what begins.
    """
    cases: list[dict[str, Any]] = []
    for model in models:
        progress(f"{model}: a model")
        with model_folder(model) as folder:
            cases += measure(folder, rounds, tokens, progress=progress)
    return {"rounds": rounds, "tokens": tokens, "cases": cases}


def measure(
    folder: Path, rounds: int, tokens: int, *, progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The cases of one model."""
    taken: dict[Case, list[dict[str, float]]] = {case: [] for case in CASES}
    with ExitStack() as stack:
        progress(f"{folder.name}: loading")
        service = stack.enter_context(inference_service(folder))
        gateway = stack.enter_context(running("neuroscope_gateway", "--port", "0", "--inference", service.target))
        grpc = stack.enter_context(Worker("tests.bench.rest", "--worker", "grpc", service.target))
        rest = stack.enter_context(Worker("tests.bench.rest", "--worker", "rest", gateway.target))
        services = service.process.pid, gateway.process.pid
        for index in range(rounds + 1):
            start = index % len(CASES)
            for case in CASES[start:] + CASES[:start]:
                progress(f"{folder.name}: round {index} of {rounds}, {case.name}, {case.captured}")
                before = [cpu_seconds(pid) for pid in services]
                worker = grpc if case.name == GRPC else rest
                found = worker.ask(tokens=tokens, hooks=POINTS if case.captures else (), form=case.form)
                used = [cpu_seconds(pid) - cpu_s for pid, cpu_s in zip(services, before, strict=True)]
                if index:
                    taken[case].append(_figures(found, used, tokens))
    return [_summary(folder.name, case, taken) for case in CASES]


def _figures(found: Mapping[str, float], used: Sequence[float], tokens: int) -> dict[str, float]:
    return {
        "first_token_ms": 1e3 * found["first_s"],
        "tokens_per_s": (tokens - 1) / (found["wall_s"] - found["first_s"]),
        "inference_ms_per_token": 1e3 * used[0] / tokens,
        "gateway_ms_per_token": 1e3 * used[1] / tokens,
        "client_ms_per_token": 1e3 * found["cpu_s"] / tokens,
        "bytes_per_token": found["bytes"] / tokens,
    }


def _summary(model: str, case: Case, taken: Mapping[Case, list[dict[str, float]]]) -> dict[str, Any]:
    own, plain = taken[case], taken[Case(GRPC, case.captures)]
    summary: dict[str, Any] = {"model": model, "captured": case.captured, "way": case.name}
    summary |= {name: statistics.median(figures[name] for figures in own) for name in own[0]}
    pairs = list(zip(own, plain, strict=True))
    later = [a["first_token_ms"] - b["first_token_ms"] for a, b in pairs]
    rates = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
    for name, values in (("first_token_ms_later", later), ("tokens_per_s_to_grpc", rates)):
        summary |= {name: statistics.median(values), f"{name}_90": interval(values)}
    return summary | {"own_rounds": own}


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"REST beside gRPC: {result['tokens']} tokens, medians of {result['rounds']} rounds", title_justify="left"
    )
    columns = "model", "captured", "way", "first token ms", "later ms", "tokens/s", "x gRPC", "KB/token"
    for index, column in enumerate((*columns, "CPU ms/token: inference", "gateway", "client")):
        found.add_column(column, justify="left" if index < 3 else "right")
    before = None
    for case in result["cases"]:
        group = case["model"], case["captured"]
        if before not in (None, group):
            found.add_section()
        before = group
        is_grpc = case["way"] == GRPC
        found.add_row(
            case["model"],
            case["captured"],
            case["way"],
            f"{case['first_token_ms']:.1f}",
            "" if is_grpc else _with_interval(case, "first_token_ms_later", 1),
            f"{case['tokens_per_s']:.1f}",
            "" if is_grpc else _with_interval(case, "tokens_per_s_to_grpc", 3),
            f"{case['bytes_per_token'] / 1e3:.1f}",
            f"{case['inference_ms_per_token']:.2f}",
            f"{case['gateway_ms_per_token']:.2f}",
            f"{case['client_ms_per_token']:.2f}",
        )
    return found


def _with_interval(case: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = case[f"{name}_90"]
    return f"{case[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, where = options.worker
        answer(OverGrpc(where).measure if kind == "grpc" else OverRest(where).measure)
        return
    result = run(options.model or MODELS, options.rounds, options.tokens)
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
