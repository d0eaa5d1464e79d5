"""What captures cost: tokens per CPU second and memory of a service, beside mlx-lm in the same run.

    python -m tests.bench.tax [--model llama|gpt2|bundled] [--kind decode|prefill] [--captured "all residual points"]
                               [--rounds 20] [--tokens 128] [--json FILE] [--traces FOLDER]

mlx-lm and a service for each case are processes of their own with one BLAS thread. In a round all of them do the same
work at the same time, in turns of a quarter of a second (`tests.bench.turns`), since a shared machine's speed changes
by the second. A ratio is the median over rounds of tokens per CPU second, a service's to mlx-lm's, with its 90 %
bootstrap interval.

decode     `tokens` tokens after a short prompt, all that the request costs, beside `mlx_lm.stream_generate`.
prefill    PREFILLS times a prompt of PREFILL_TOKENS and one token after it, beside two forward passes of mlx-lm: all
           but the last token and the last, as `stream_generate` does it.

REST is the gateway's NDJSON with base64, and the gateway's CPU seconds count as the service's. Otherwise the CPU
seconds of ours are the inference service's; the client's stand beside them, as milliseconds per token. Memory is what a
process holds at the end, to what mlx-lm holds. With `--traces` a further, unmeasured run of each case is traced.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuroscope import Client
from neuroscope.cli.connection import Connection
from neuroscope_inference import blas
from tests.bench import rest
from tests.bench.intervals import interval
from tests.bench.models import MODELS, is_large, model_folder
from tests.bench.turns import Taken, Turn, take_turns
from tests.bench.worker import Worker, answer, cpu_seconds
from tests.support.processes import resident_bytes
from tests.support.services import inference_service, running

PROMPT_TOKENS = 32  # of a decode
PREFILL_TOKENS = 512
PREFILLS = 3
"""In a round: one takes so little time that its figure would be of the moment."""
PEER, OURS, REST = "mlx-lm", "ours", "rest"
KINDS = ("decode", "prefill")
EVERY = ("every",)  # all that the model has
_TRACED = 64  # tokens of a trace


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of a service, and what the ratios should at least be on a large model, by kind.

    Attributes:
        over_rest: by a client of a gateway, whose CPU time counts as the service's; a decode only.
    """

    captured: str
    hooks: Sequence[str]
    bars: Mapping[str, float]
    over_rest: bool = False

    @property
    def kinds(self) -> Sequence[str]:
        """What is measured of it."""
        return ("decode",) if self.over_rest else KINDS


CASES = (
    Case("nothing", (), {"decode": 0.97}),
    Case("one point", ("resid_post.1",), {"decode": 0.97}),
    Case("all residual points", rest.POINTS, {"decode": 0.95, "prefill": 0.95}),
    Case("every point", EVERY, {"decode": 0.80}),
    Case("all residual points, REST", rest.POINTS, {"decode": 0.85}, over_rest=True),
)


# The processes that are measured.


class Peer:
    """mlx-lm as its users call it."""

    def __init__(self, folder: str) -> None:
        blas.load()  # before mlx is imported
        import mlx_lm

        self._model, self._tokenizer, *_ = mlx_lm.load(folder)
        self._tokenizer.eos_token_ids = set()  # never stops early

    def measure(self, kind: str, tokens: int) -> dict[str, Any]:
        """Seconds of its own CPU."""
        begin = cpu_seconds()
        for _ in range(repeats(kind)):
            (self._prefill if kind == "prefill" else self._decode)(tokens)
        return {"cpu_s": cpu_seconds() - begin}

    def _decode(self, tokens: int) -> None:
        import mlx_lm

        for _ in mlx_lm.stream_generate(self._model, self._tokenizer, token_ids(PROMPT_TOKENS), max_tokens=tokens):
            pass

    def _prefill(self, tokens: int) -> None:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        call: Any = self._model
        ids = mx.array([token_ids(tokens)])
        cache = make_prompt_cache(self._model)
        call(ids[:, :-1], cache=cache)
        mx.eval([layer.state for layer in cache])
        mx.eval(mx.argmax(call(ids[:, -1:], cache=cache)[:, -1]))


class Ours:
    """The SDK's client of a service."""

    def __init__(self, target: str) -> None:
        self._client = Client(target)
        self._target = target
        points = self._client.model().points
        self._every = list(dict.fromkeys(point.site.component for point in points if point.available))

    def measure(self, kind: str, tokens: int, hooks: Sequence[str], trace: str = "") -> dict[str, Any]:
        """Seconds of its own CPU, which is the client's; or a trace in a file, and nothing measured."""
        prompt, max_tokens = (token_ids(tokens), 1) if kind == "prefill" else (token_ids(PROMPT_TOKENS), tokens)
        hooks = self._every if tuple(hooks) == EVERY else hooks
        how: dict[str, Any] = {"hooks": hooks, "max_tokens": max_tokens, "ignore_eos": True, "keep": False}
        if trace:
            with Connection(self._target, trace=Path(trace)).open(f"bench {kind}") as client:
                list(client.generate(prompt, **how))
            return {}
        begin = cpu_seconds()
        for _ in range(repeats(kind)):
            drawn = list(self._client.generate(prompt, **how))
            assert len(drawn) == max_tokens
        return {"cpu_s": cpu_seconds() - begin}


class OverRest:
    """A client of a gateway."""

    def __init__(self, url: str) -> None:
        self._client = rest.OverRest(url)

    def measure(self, kind: str, tokens: int, hooks: Sequence[str]) -> dict[str, Any]:
        """Seconds of its own CPU."""
        assert kind == "decode"
        return {"cpu_s": self._client.measure(tokens, hooks, "base64")["cpu_s"]}


def repeats(kind: str) -> int:
    """How often a round does the work."""
    return PREFILLS if kind == "prefill" else 1


def token_ids(count: int) -> list[int]:
    """A prompt that every model has the ids of."""
    return [10 + index * 7 % 300 for index in range(count)]


# The measuring process.


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 20,
    tokens: int = 128,
    *,
    kinds: Sequence[str] = KINDS,
    cases: Sequence[Case] = CASES,
    traces: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models one after the other.

    Args:
        models: of `tests.bench.models.MODELS`, or folders.
        rounds: of every case, after one to warm up.
        tokens: that a decode generates.
        kinds: decode, prefill or both.
        cases: what is captured.
        traces: folder for a trace of each case.
        progress: is told what begins.
    """
    found: list[dict[str, Any]] = []
    for model in models:
        progress(f"{model}: a model")
        with model_folder(model) as folder:
            found += measure(folder, rounds, tokens, kinds=kinds, cases=cases, traces=traces, progress=progress)
    return {"rounds": rounds, "cases": found}


def measure(
    folder: Path,
    rounds: int,
    tokens: int,
    *,
    prefill_tokens: int = PREFILL_TOKENS,
    kinds: Sequence[str] = KINDS,
    cases: Sequence[Case] = CASES,
    traces: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The cases of one model, decode before prefill, mlx-lm first."""
    one_thread = {"OPENBLAS_NUM_THREADS": "1"}
    with ExitStack() as stack:
        progress(f"{folder.name}: loading")
        peer = stack.enter_context(Worker("tests.bench.tax", "--worker", PEER, str(folder), environment=one_thread))
        served = [_served(stack, folder, case, one_thread) for case in cases]
        results: list[dict[str, Any]] = []
        for kind in kinds:
            count = prefill_tokens if kind == "prefill" else tokens
            asked = [(case, *ours) for case, ours in zip(cases, served, strict=True) if kind in case.kinds]
            turns = [Turn([peer.pid], partial(peer.ask, kind=kind, tokens=count))]
            for case, pids, client in asked:
                turns.append(Turn(pids, partial(client.ask, kind=kind, tokens=count, hooks=list(case.hooks))))
            taken: list[list[Taken]] = []
            for index in range(rounds + 1):
                progress(f"{folder.name}: {kind}, round {index} of {rounds}")
                start = index % len(turns)  # the order turns, too
                found = take_turns(turns[start:] + turns[:start])
                taken.append(found[-start:] + found[:-start] if start else found)
            memory = [sum(map(resident_bytes, turn.pids)) for turn in turns]
            runs = list(zip(*taken[1:], strict=True))
            named_cases = [Case(PEER, (), {}), *(case for case, *_ in asked)]
            for case, took, held in zip(named_cases, runs, memory, strict=True):
                named = {"model": folder.name, "kind": kind, "tokens": count, "captured": case.captured}
                bar = case.bars.get(kind) if is_large(folder) else None
                results.append({**named, "bar": bar, **_figures(count * repeats(kind), took, runs[0])})
                results[-1] |= {"resident_mb": held / 1e6, "memory_to_mlx_lm": held / memory[0]}
            for case, client in [(case, client) for case, _, client in asked if traces and not case.over_rest]:
                progress(f"{folder.name}: {kind}, a trace of {case.captured}")
                name = f"{folder.name} {kind} {case.captured}".replace(" ", "-")
                client.ask(kind=kind, tokens=min(count, _TRACED), hooks=list(case.hooks), trace=f"{traces}/{name}.json")
    return results


def _served(stack: ExitStack, folder: Path, case: Case, environment: Mapping[str, str]) -> tuple[Sequence[int], Worker]:
    """The processes that serve a case, and its client."""
    service = stack.enter_context(inference_service(folder, environment=environment))
    if not case.over_rest:
        return [service.process.pid], stack.enter_context(Worker("tests.bench.tax", "--worker", OURS, service.target))
    gateway = stack.enter_context(running("neuroscope_gateway", "--port", "0", "--inference", service.target))
    client = stack.enter_context(Worker("tests.bench.tax", "--worker", REST, gateway.target))
    return [service.process.pid, gateway.process.pid], client


def _figures(tokens: int, runs: Sequence[Taken], plain: Sequence[Taken]) -> dict[str, Any]:
    ratios = [peer.cpu_s / run.cpu_s for run, peer in zip(runs, plain, strict=True)]
    return {
        "tokens_per_cpu_s": tokens / statistics.median(run.cpu_s for run in runs),
        "to_mlx_lm": statistics.median(ratios),
        "interval_90": interval(ratios),
        "client_ms_per_token": 1000 * statistics.median(run.result["cpu_s"] for run in runs) / tokens,
        "to_mlx_lm_rounds": ratios,
    }


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"Tokens per CPU second of the service to mlx-lm's, medians of {result['rounds']} rounds",
        title_justify="left",
    )
    columns = "model", "", "captured", "tokens/CPU s", "x mlx-lm", "90 %", "bar", "client ms/token", "memory x mlx-lm"
    for index, column in enumerate(columns):
        found.add_column(column, justify="left" if index < 3 else "right")
    before = None
    for case in result["cases"]:
        group = case["model"], case["kind"]
        if before not in (None, group):
            found.add_section()
        before = group
        low, high = case["interval_90"]
        is_peer = case["captured"] == PEER
        found.add_row(
            case["model"],
            f"{case['kind']} {case['tokens']}",
            case["captured"],
            f"{case['tokens_per_cpu_s']:.1f}",
            "" if is_peer else f"{case['to_mlx_lm']:.3f}",
            "" if is_peer else f"{low:.3f} to {high:.3f}",
            "" if case["bar"] is None else f"{case['bar']:.2f}",
            "" if is_peer else f"{case['client_ms_per_token']:.2f}",
            "" if is_peer else f"{case['memory_to_mlx_lm']:.2f}",
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--captured", action="append", choices=[case.captured for case in CASES])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--traces", type=Path, help="a folder for a trace of each case")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        role, where = options.worker
        answer({PEER: Peer, OURS: Ours, REST: OverRest}[role](where).measure)
        return
    result = run(
        options.model or MODELS,
        options.rounds,
        options.tokens,
        kinds=options.kind or KINDS,
        cases=[case for case in CASES if case.captured in (options.captured or [case.captured])],
        traces=options.traces,
    )
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
