"""How many patches a sweep runs in the time of one forward pass, and the memory that it takes.

    python -m tests.bench.sweep [--rounds 10] [--json FILE]

Two processes with the same random GPT-2 of 124 million parameters: one runs whole forward passes with mlx-lm alone, the
other sweeps with the engine in its process (`Client.local`), from the call to the last value: both unedited runs, the
plan and the messages are in it. A round times forward passes, a sweep, and forward passes again; its ratio is that of
the patches per second to the mean of the passes, so that what else the machine does falls on both.

resid: the residual stream before each of 12 layers at 16 evenly spaced positions. heads: each of 12 x 12 heads at all
positions. last: each head at the last position. Peak memory is that of the process, weights included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from neuroscope import Client
from neuroscope.experiments import EACH, logit_diff
from tests.bench.models import model_folder
from tests.bench.worker import Worker, answer

BARS = {("resid", 64): 4.2, ("heads", 64): 2.2, ("last", 64): 10.0}
"""Patches per forward pass, by sweep and prompt length."""
MEMORY_BAR = 2.0
PASSES = 3
ANSWER, OTHER = 5, 7


def run(
    rounds: int = 10,
    lengths: Sequence[int] = (64,),
    sweeps: Sequence[str] = ("resid", "heads", "last"),
    rounds_of_long: int = 2,
    model: str = "gpt2",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures every sweep at every length; longer prompts than the first in fewer rounds."""
    cases: list[dict[str, Any]] = []
    with (
        model_folder(model) as folder,
        Worker("tests.bench.sweep", "--worker", "forward", str(folder)) as plain,
        Worker("tests.bench.sweep", "--worker", "sweep", str(folder)) as sweeping,
    ):
        for length in lengths:
            for name in sweeps:
                found: list[dict[str, Any]] = []
                count = rounds if length == lengths[0] else min(rounds, rounds_of_long)
                for number in range(count):
                    progress(f"{name}, {length} tokens, round {number + 1} of {count}")
                    before = plain.ask(length=length)
                    swept = sweeping.ask(length=length, name=name)
                    after = plain.ask(length=length)
                    forward_s = (before["seconds"] + after["seconds"]) / 2
                    found.append({**swept, "forward_s": forward_s, "plain_peak_bytes": after["peak_bytes"]})
                cases.append(_case(name, length, found))
    return {"model": f"{model}-124m", "rounds": rounds, "cases": cases}


def _case(name: str, length: int, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = [one["patches"] / one["seconds"] * one["forward_s"] for one in found]
    return {
        "name": name,
        "length": length,
        "patches": found[0]["patches"],
        "method": found[0]["method"],
        "rounds": len(found),
        "patches_per_forward": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "bar": BARS.get((name, length)),
        "patches_per_s": statistics.median(one["patches"] / one["seconds"] for one in found),
        "forward_s": statistics.median(one["forward_s"] for one in found),
        "most_rows": max(one["most_rows"] for one in found),
        "peak_bytes": max(one["peak_bytes"] for one in found),
        "plain_peak_bytes": max(one["plain_peak_bytes"] for one in found),
    }


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"Sweeps of {result['model']}: patches in the time of one forward pass",
        caption=f"Memory, weights included, is at most {MEMORY_BAR:g} times that of a forward pass alone (bar).",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("sweep", "tokens", "patches", "per pass", "range", "bar", "patches/s", "rows", "MB", "to a pass"):
        found.add_column(column, justify="left" if column == "sweep" else "right")
    for case in result["cases"]:
        found.add_row(
            case["name"],
            str(case["length"]),
            str(case["patches"]),
            f"{case['patches_per_forward']:.2f}",
            f"{case['lowest']:.2f} to {case['highest']:.2f}",
            "" if case["bar"] is None else f"{case['bar']:g}",
            f"{case['patches_per_s']:.1f}",
            str(case["most_rows"]),
            f"{case['peak_bytes'] / 1e6:.0f}",
            f"x {case['peak_bytes'] / case['plain_peak_bytes']:.2f}",
        )
    return found


def tokens_of(length: int, seed: int) -> list[int]:
    """A prompt of random tokens."""
    return np.random.default_rng(seed).integers(5, 400, length).tolist()


def _forward(folder: Path) -> None:
    from neuroscope_inference import blas

    blas.load()
    import mlx.core as mx

    mx.disable_compile()  # as the engine does on the CPU
    from tests.support.plain_mlx import load_plain, plain_logits

    network, _ = load_plain(folder)

    def measure(length: int) -> dict[str, Any]:
        taken: list[float] = []
        for _ in range(PASSES):
            began = time.perf_counter()
            plain_logits(network, tokens_of(length, 1))
            taken.append(time.perf_counter() - began)
        return {"seconds": statistics.median(taken), "peak_bytes": peak_bytes()}

    answer(measure)


def _sweep(folder: Path) -> None:
    with Client.local(model=[str(folder)]) as client:
        metric = logit_diff(ANSWER, OTHER)
        warm = client.patch(tokens_of(16, 0), tokens_of(16, 1)).residual(layers=[0])
        warm.run(metric)  # proves the way, once for the model

        def measure(length: int, name: str) -> dict[str, Any]:
            patching = client.patch(tokens_of(length, 0), tokens_of(length, 1))
            match name:
                case "resid":
                    patching = patching.residual(positions=range(0, length, length // 16))
                case "heads":
                    patching = patching.heads()
                case _:
                    patching = patching.heads(heads=EACH, positions=-1)
            began = time.perf_counter()
            result = patching.run(metric)
            seconds = time.perf_counter() - began
            assert result.plan is not None
            assert result.end is not None
            return {
                "seconds": seconds,
                "patches": result.end.patches_done,
                "method": result.plan.method,
                "most_rows": result.end.most_rows,
                "peak_bytes": peak_bytes(),
            }

        answer(measure)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64])
    parser.add_argument("--sweeps", nargs="+", default=["resid", "heads", "last"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, folder = options.worker
        (_forward if kind == "forward" else _sweep)(Path(folder))
        return
    result = run(options.rounds, options.lengths, options.sweeps, progress=lambda text: print(text, file=sys.stderr))
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
