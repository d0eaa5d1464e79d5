"""What captures cost in each library: tokens per CPU second and second, and peak memory.

decode     tokens after a prompt of PROMPT_TOKENS.
prefill    one token after a prompt of PREFILL_TOKENS.

Each library has a process that captures nothing and another that captures every residual point (resid_pre, resid_mid
and resid_post of all layers). In a round all of them do the same at the same time, in turns of a quarter of a second;
figures are medians of rounds, and what captures cost is the median of the ratios within rounds. That all generated the
same tokens and captured as many bytes is checked. `NeuroScope` is a client in one process and a service in another: CPU
time and memory are those of both. `mlx-lm` alone has no captures; it shows what the kernels do.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.peers.agreement import require_agreement, require_same
from tests.bench.peers.contestants import MLX, OURS, PEERS, contestants, in_turns
from tests.bench.peers.weights import MODELS, shared_folder
from tests.bench.tax import token_ids
from tests.bench.turns import Taken

PROMPT_TOKENS = 32
PREFILL_TOKENS = 512
CAPTURED = {False: "nothing", True: "all residual points"}


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 2,
    tokens: int = 64,
    *,
    prefill_tokens: int = PREFILL_TOKENS,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models one after the other.

    Args:
        models: of MODELS.
        rounds: after a short one to warm up.
        tokens: that a decode generates.
        prefill_tokens: of the longer prompt.
        progress: is told what begins.
    """
    cases: list[dict[str, Any]] = []
    for model in models:
        progress(f"{model}: a model")
        with shared_folder(model) as folder:
            cases += measure(folder, rounds, tokens, prefill_tokens=prefill_tokens, progress=progress)
    return {"rounds": rounds, "prompt_tokens": PROMPT_TOKENS, "cases": cases}


def measure(
    folder: Path,
    rounds: int,
    tokens: int,
    *,
    prefill_tokens: int = PREFILL_TOKENS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The cases of one model.

    Raises:
        DisagreementError: libraries compute or capture different things.
    """
    progress(f"{folder.name}: loading")
    entrants = [(OURS, False), (OURS, True), (MLX, False), *itertools.product(PEERS, CAPTURED)]
    with contestants(folder, [name for name, _ in entrants]) as processes:
        progress(f"{folder.name}: whether they agree")
        require_agreement(processes, token_ids(PROMPT_TOKENS))
        cases: list[dict[str, Any]] = []
        for kind, prompt, count in (("decode", PROMPT_TOKENS, tokens), ("prefill", prefill_tokens, 1)):
            how: dict[str, Any] = {
                "ids": token_ids(prompt),
                "each": [{"captured": captured} for _, captured in entrants],
            }
            in_turns(processes, 0, "generate", tokens=min(count, 2), **how)
            for one in processes:
                one.forget_peak()
            rounds_taken: list[list[Taken]] = []
            for index in range(rounds):
                progress(f"{folder.name}: {kind}, round {index + 1} of {rounds}")
                rounds_taken.append(in_turns(processes, index, "generate", tokens=count, **how))
            runs = dict(zip(entrants, zip(*rounds_taken, strict=True), strict=True))
            _check(kind, runs)
            peaks = [one.peak_bytes() for one in processes]
            tokens = count if kind == "decode" else prompt
            named = {"model": folder.name, "kind": kind, "tokens": tokens}
            for (name, captured), peak in zip(entrants, peaks, strict=True):
                case = {**named, "captured": CAPTURED[captured], "library": name}
                case |= _figures(tokens, runs[name, captured], runs[name, False])
                cases.append(case | {"peak_mb": None if peak is None else peak / 1e6})
    return cases


def _check(kind: str, runs: Mapping[tuple[str, bool], Sequence[Taken]]) -> None:
    require_same(f"tokens of {kind}", {name: taken[0].result["ids"] for (name, _), taken in runs.items()})
    for wanted in CAPTURED:
        sizes = {name: taken[0].result["bytes"] for (name, captured), taken in runs.items() if captured is wanted}
        require_same(f"bytes of {kind}, {CAPTURED[wanted]}", sizes)


def _figures(tokens: int, runs: Sequence[Taken], plain: Sequence[Taken]) -> dict[str, Any]:
    return {
        "tokens_per_cpu_s": tokens / statistics.median(run.cpu_s for run in runs),
        "tokens_per_s": tokens / statistics.median(run.wall_s for run in runs),
        "to_nothing": statistics.median(none.cpu_s / run.cpu_s for run, none in zip(runs, plain, strict=True)),
        "captured_mb": runs[0].result["bytes"] / 1e6,
    }


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title=f"Generating, medians of {result['rounds']} rounds", title_justify="left")
    for index, column in enumerate(
        ("model", "", "library", "captured", "tokens/CPU s", "x nothing", "tokens/s", "peak MB", "captured MB")
    ):
        found.add_column(column, justify="left" if index < 4 else "right")
    before = None
    for case in result["cases"]:
        group = case["model"], case["kind"]
        if before not in (None, group):
            found.add_section()
        before = group
        found.add_row(
            case["model"],
            f"{case['kind']} {case['tokens']}",
            case["library"],
            case["captured"],
            f"{case['tokens_per_cpu_s']:.1f}",
            f"{case['to_nothing']:.2f}",
            f"{case['tokens_per_s']:.1f}",
            "" if case["peak_mb"] is None else f"{case['peak_mb']:.0f}",
            f"{case['captured_mb']:.1f}",
        )
    return found
