"""What captures cost in each library: tokens per CPU second and second, and peak memory.

In a round all libraries do the same at the same time, in turns of a quarter of a second; figures are medians of rounds.

decode     tokens after a prompt of PROMPT_TOKENS.
prefill    one token after a prompt of PREFILL_TOKENS.

Each of them with every residual point captured (resid_pre, resid_mid and resid_post of all layers) and with nothing
captured. That all generated the same tokens and captured as many bytes is checked. `NeuroScope` is a client in one
process and a service in another: CPU time and memory are those of both. `mlx-lm` alone has no captures; it shows what
the kernels do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.peers.agreement import require_agreement, require_same
from tests.bench.peers.contestants import MLX, OURS, PEERS, Contestant, contestants, in_turns
from tests.bench.peers.weights import MODELS, shared_folder
from tests.bench.tax import token_ids
from tests.bench.turns import Taken

PROMPT_TOKENS = 32
PREFILL_TOKENS = 512
CAPTURED = {False: "nothing", True: "all residual points"}


def run(
    models: Sequence[str] = MODELS,
    rounds: int = 3,
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
    with contestants(folder, [OURS, MLX, *PEERS]) as all_of_them:
        progress(f"{folder.name}: whether they agree")
        require_agreement(all_of_them, token_ids(PROMPT_TOKENS))
        cases: list[dict[str, Any]] = []
        for kind, prompt, count in (("decode", PROMPT_TOKENS, tokens), ("prefill", prefill_tokens, 1)):
            for captured, name in CAPTURED.items():
                entrants = [one for one in all_of_them if one.name != MLX or not captured]
                question: dict[str, Any] = {"ids": token_ids(prompt), "captured": captured}
                in_turns(entrants, 0, "generate", tokens=min(count, 2), **question)
                for one in entrants:
                    one.forget_peak()
                taken: list[list[Taken]] = []
                for index in range(rounds):
                    progress(f"{folder.name}: {kind}, {name}, round {index + 1} of {rounds}")
                    taken.append(in_turns(entrants, index, "generate", tokens=count, **question))
                _check(kind, entrants, taken[0])
                for one, runs in zip(entrants, zip(*taken, strict=True), strict=True):
                    named = {"model": folder.name, "kind": kind, "tokens": count if kind == "decode" else prompt}
                    cases.append({**named, "captured": name, "library": one.name, **_figures(one, named, runs)})
    return cases


def _check(kind: str, entrants: Sequence[Contestant], taken: Sequence[Taken]) -> None:
    for what in ("ids", "bytes"):
        results = {one.name: run.result[what] for one, run in zip(entrants, taken, strict=True)}
        require_same(f"{what} of {kind}", results)


def _figures(one: Contestant, named: Mapping[str, Any], runs: Sequence[Taken]) -> dict[str, Any]:
    peak = one.peak_bytes()
    return {
        "tokens_per_cpu_s": named["tokens"] / statistics.median(run.cpu_s for run in runs),
        "tokens_per_s": named["tokens"] / statistics.median(run.wall_s for run in runs),
        "peak_mb": None if peak is None else peak / 1e6,
        "captured_mb": runs[0].result["bytes"] / 1e6,
    }


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title=f"Generating, medians of {result['rounds']} rounds", title_justify="left")
    for index, column in enumerate(
        ("model", "", "captured", "library", "tokens/CPU s", "tokens/s", "peak MB", "captured MB")
    ):
        found.add_column(column, justify="left" if index < 4 else "right")
    before = None
    for case in result["cases"]:
        group = case["model"], case["kind"], case["captured"]
        if before not in (None, group):
            found.add_section()
        before = group
        found.add_row(
            case["model"],
            f"{case['kind']} {case['tokens']}",
            case["captured"],
            case["library"],
            f"{case['tokens_per_cpu_s']:.1f}",
            f"{case['tokens_per_s']:.1f}",
            "" if case["peak_mb"] is None else f"{case['peak_mb']:.0f}",
            f"{case['captured_mb']:.1f}",
        )
    return found
