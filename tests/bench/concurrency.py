"""How many tokens per second a service makes for eight clients at once, beside one.

    python -m tests.bench.concurrency [--model llama|gpt2|bundled] [--rounds 5] [--tokens 64] [--json FILE]

Each generation captures the residual stream of another layer. A round is one generation alone, then 2, 4 and 8 at the
same time, all started together; a rate is the tokens of all, first ones included, over the time from the start to the
last token of the last one. A ratio is the median over rounds of a rate to that of one generation in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuroscope import Client
from tests.bench.models import MODELS, is_large, model_folder
from tests.bench.tax import token_ids
from tests.bench.worker import Worker, answer
from tests.support.services import inference_service

PROMPT_TOKENS = 16
COUNTS = (1, 2, 4, 8)
BAR = 2.5  # of eight


# The clients' process.


class Clients:
    """Clients of one service, as many as are asked for."""

    def __init__(self, target: str) -> None:
        self._client = Client(target)
        self._layers = self._client.model().model.num_layers

    def measure(self, count: int, tokens: int) -> dict[str, Any]:
        """Seconds that so many generations take together."""
        ready = threading.Barrier(count + 1)
        with ThreadPoolExecutor(count) as pool:
            runs = [pool.submit(self._generate, index, tokens, ready) for index in range(count)]
            ready.wait()
            begin = time.perf_counter()
            for run in runs:
                run.result()
        return {"wall_s": time.perf_counter() - begin}

    def _generate(self, index: int, tokens: int, ready: threading.Barrier) -> None:
        prompt = token_ids(PROMPT_TOKENS + index)
        ready.wait()
        hooks = [f"resid_post.{index % self._layers}"]
        drawn = list(self._client.generate(prompt, hooks=hooks, max_tokens=tokens, ignore_eos=True, keep=False))
        assert len(drawn) == tokens


# The measuring process.


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 5,
    tokens: int = 64,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models one after the other.

    Args:
        models: of `tests.bench.models.MODELS`.
        rounds: after one to warm up.
        tokens: that each generation makes.
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
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    progress(f"{folder.name}: loading")
    with (
        inference_service(folder) as service,
        Worker("tests.bench.concurrency", "--worker", service.target) as clients,
    ):
        for index in range(rounds + 1):
            for count in COUNTS:
                progress(f"{folder.name}: round {index} of {rounds}, {count} at once")
                found = clients.ask(count=count, tokens=tokens)
                if index:
                    rates[count].append(count * tokens / found["wall_s"])
    return [
        {
            "model": folder.name,
            "generations": count,
            "tokens_per_s": statistics.median(rates[count]),
            "to_one": statistics.median(many / one for many, one in zip(rates[count], rates[1], strict=True)),
            "bar": BAR if count == max(COUNTS) and is_large(folder) else None,
            "tokens_per_s_rounds": rates[count],
        }
        for count in COUNTS
    ]


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"Generations at once, each capturing another layer: {result['tokens']} tokens each,"
        f" medians of {result['rounds']} rounds",
        title_justify="left",
    )
    for column in ("model", "generations", "tokens/s of all", "x one", "bar"):
        found.add_column(column, justify="left" if column == "model" else "right")
    before = None
    for case in result["cases"]:
        if before not in (None, case["model"]):
            found.add_section()
        before = case["model"]
        found.add_row(
            case["model"],
            str(case["generations"]),
            f"{case['tokens_per_s']:.1f}",
            f"{case['to_one']:.2f}",
            "" if case["bar"] is None else f"{case['bar']:.1f}",
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(Clients(options.worker).measure)
        return
    result = run(options.model or MODELS, options.rounds, options.tokens)
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
