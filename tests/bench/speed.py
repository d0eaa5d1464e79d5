"""What captures cost in speed, beside mlx-lm itself: decode and prefill, through gRPC and in process.

    python -m tests.bench.speed [--rounds 8] [--json FILE]

mlx-lm, the engine in process and the client of a service are processes of their own that take turns, so that a round is
a comparison under the same conditions; ratios are medians over rounds. All have the same BLAS. Decode is timed from the
first token to the last, prefill from the call to the first token; no prompt is kept for the next round. mlx-lm decodes
with `stream_generate` and prefills with two plain forward passes, all tokens but the last and the last, as it does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuroscope import Client
from neuroscope_inference import blas
from tests.bench.worker import Worker, answer
from tests.support.random_models import make_large
from tests.support.services import inference_service

BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"
PROMPT_TOKENS = 32  # of a decode
PEER = "mlx-lm"
CARRIERS = ("gRPC", "in process")
HOOKS: Mapping[str, Sequence[str]] = {
    "no hooks": (),
    "resid_post": ("resid_post",),
    "resid_post, attention_pattern, mlp_out": ("resid_post", "attention_pattern", "mlp_out"),
}
PREFILL_HOOKS = ("no hooks", "resid_post")
_PAUSE_S = 0.05  # the BLAS threads of the process before go to sleep


# The processes that run a model.


class Plain:
    """mlx-lm as its users call it."""

    def __init__(self, folder: str) -> None:
        blas.load()  # before mlx is imported
        import mlx_lm

        self._model, self._tokenizer, *_ = mlx_lm.load(folder)
        self._tokenizer.eos_token_ids = set()  # never stops early

    def measure(self, kind: str, hooks: Sequence[str], tokens: int) -> dict[str, Any]:
        """Seconds, and the tokens that were generated."""
        return self._prefill(tokens) if kind == "prefill" else self._decode(tokens)

    def _decode(self, tokens: int) -> dict[str, Any]:
        import mlx_lm

        stamps: list[float] = []
        ids: list[int] = []
        prompt = token_ids(PROMPT_TOKENS)
        for response in mlx_lm.stream_generate(self._model, self._tokenizer, prompt, max_tokens=tokens):
            stamps.append(time.perf_counter())
            ids.append(response.token)
        return {"seconds": stamps[-1] - stamps[0], "ids": ids}

    def _prefill(self, tokens: int) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        begin = time.perf_counter()
        call: Any = self._model
        ids = mx.array([token_ids(tokens)])
        cache = make_prompt_cache(self._model)
        call(ids[:, :-1], cache=cache)
        mx.eval([layer.state for layer in cache])
        token = mx.argmax(call(ids[:, -1:], cache=cache)[:, -1])
        first: Any = token.item()
        return {"seconds": time.perf_counter() - begin, "ids": [first]}


class Ours:
    """The SDK's client, of a service or of the engine in this process."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def measure(self, kind: str, hooks: Sequence[str], tokens: int) -> dict[str, Any]:
        """Seconds, and the tokens that were generated."""
        is_prefill = kind == "prefill"
        prompt, max_tokens = (token_ids(tokens), 1) if is_prefill else (token_ids(PROMPT_TOKENS), tokens)
        stamps = [time.perf_counter()] if is_prefill else []
        ids: list[int] = []
        for token in self._client.generate(prompt, hooks=hooks, max_tokens=max_tokens, ignore_eos=True, keep=False):
            stamps.append(time.perf_counter())
            ids.append(token.token_id)
        return {"seconds": stamps[-1] - stamps[0], "ids": ids}


def token_ids(count: int) -> list[int]:
    """A prompt that every model has the ids of."""
    return [10 + index * 7 % 300 for index in range(count)]


def work(role: str, where: str) -> None:
    """What a process does: one of mlx-lm, in process (of a folder), gRPC (of a target)."""
    if role == PEER:
        answer(Plain(where).measure)
        return
    with Client.local(prompt_cache_bytes=0) if role == "in process" else Client(where) as client:
        if role == "in process":
            client.load_model(where)
        answer(Ours(client).measure)


# The measuring process.


def measure(
    folder: Path,
    rounds: int,
    *,
    decode_tokens: int = 32,
    prefill_tokens: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The cases of one model; without prefill_tokens no prefill."""
    name = folder.name
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        progress(f"{name}: loading")
        service = stack.enter_context(inference_service(folder, arguments=("--prompt-cache-bytes", "0")))
        wheres = {PEER: str(folder), "in process": str(folder), "gRPC": service.target}
        workers = {role: Worker("tests.bench.speed", "--worker", role, where) for role, where in wheres.items()}
        for worker in workers.values():
            stack.enter_context(worker)
        for kind, tokens, hooks in (
            ("decode", decode_tokens, tuple(HOOKS)),
            ("prefill", prefill_tokens, PREFILL_HOOKS),
        ):
            if not tokens:
                continue
            cases = [(PEER, "no hooks"), *((carrier, key) for carrier in CARRIERS for key in hooks)]
            speeds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
            for index in range(rounds + 1):
                progress(f"{name}: {kind}, round {index} of {rounds}")
                ids: dict[str, list[int]] = {}
                for case in cases[index % len(cases) :] + cases[: index % len(cases)]:
                    time.sleep(_PAUSE_S)
                    found = workers[case[0]].ask(kind=kind, hooks=HOOKS[case[1]], tokens=tokens)
                    if index:
                        timed = tokens if kind == "prefill" else tokens - 1
                        speeds[case].append(timed / found["seconds"])
                    if case[0] != PEER:
                        assert ids.setdefault("ours", found["ids"]) == found["ids"], "captures changed the tokens"
            results += [_result(name, kind, tokens, case, speeds) for case in cases]
    return results


def _result(
    model: str, kind: str, tokens: int, case: tuple[str, str], speeds: Mapping[tuple[str, str], list[float]]
) -> dict[str, Any]:
    def ratio(to: tuple[str, str]) -> float:
        return statistics.median(a / b for a, b in zip(speeds[case], speeds[to], strict=True))

    return {
        "model": model,
        "kind": kind,
        "tokens": tokens,
        "carrier": case[0],
        "hooks": case[1],
        "tokens_per_s": statistics.median(speeds[case]),
        "to_mlx_lm": ratio((PEER, "no hooks")),
        "to_no_hooks": ratio((case[0], "no hooks")),
        "tokens_per_s_rounds": speeds[case],
    }


def run(rounds: int = 8, *, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures the bundled model and a random one of GPT-2's shape, 124 million parameters.

    Args:
        rounds: after one to warm up; the bundled model, which is quick, gets three times as many.
        progress: is told what begins.
    """
    with tempfile.TemporaryDirectory(prefix="neuroscope-bench-") as folder:
        progress("a random model of 124 M parameters")
        large = make_large("gpt2", Path(folder) / "gpt2-124m")
        cases = measure(BUNDLED, 3 * rounds, decode_tokens=96, progress=progress)
        cases += measure(large, rounds, decode_tokens=32, prefill_tokens=512, progress=progress)
    return {"cases": cases}


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title="Tokens per second, and medians of their ratios within a round", title_justify="left")
    for column in ("model", "", "carrier", "captured", "tokens/s", "x mlx-lm", "x no hooks"):
        found.add_column(column, justify="right" if column.startswith(("tokens", "x ")) else "left")
    before = None
    for case in result["cases"]:
        group = case["model"], case["kind"]
        if before not in (None, group):
            found.add_section()
        before = group
        found.add_row(
            case["model"],
            f"{case['kind']} {case['tokens']}",
            case["carrier"],
            "" if case["hooks"] == "no hooks" else case["hooks"],
            f"{case['tokens_per_s']:.1f}",
            f"{case['to_mlx_lm']:.2f}",
            f"{case['to_no_hooks']:.2f}",
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    result = run(options.rounds)
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
