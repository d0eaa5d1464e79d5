"""How many forward passes an attribution takes as long as, and the memory that it takes.

    python -m tests.bench.attribution [--rounds 10] [--json FILE]

Two processes with the same random GPT-2 of 124 million parameters: one runs whole forward passes with mlx-lm alone, the
other attributes with the engine in its process (`Client.local`), from the call to the scores: the passes of both runs,
the plan and the messages are in it. A round times some forward passes, as many attributions, and forward passes again,
and takes the median of each; its ratio is that of an attribution's seconds to the mean of the passes.

nodes: attribution patching of every head, every MLP and the input at every position. edges: EAP-IG with 5 steps over
all edges. Peak memory is that of the process, weights included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neuroscope import Client
from neuroscope.experiments import logit_diff
from tests.bench.models import model_folder
from tests.bench.sweep import ANSWER, OTHER, PASSES, peak_bytes, tokens_of
from tests.bench.worker import Worker, answer

BARS = {("nodes", 64): 2.6, ("edges", 64): 20.0}
"""Forward passes, by attribution and prompt length."""
METHODS: dict[str, dict[str, Any]] = {
    "nodes": {"method": "attribution-patching"},
    "edges": {"method": "eap-ig", "steps": 5},
}


def run(
    rounds: int = 10,
    lengths: Sequence[int] = (64,),
    model: str = "gpt2",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures every attribution at every length."""
    cases: list[dict[str, Any]] = []
    with (
        model_folder(model) as folder,
        Worker("tests.bench.sweep", "--worker", "forward", str(folder)) as plain,
        Worker("tests.bench.attribution", "--worker", str(folder)) as attributing,
    ):
        for length in lengths:
            for name in METHODS:
                found: list[dict[str, Any]] = []
                for number in range(rounds):
                    progress(f"{name}, {length} tokens, round {number + 1} of {rounds}")
                    before = plain.ask(length=length)
                    attributed = attributing.ask(length=length, name=name)
                    after = plain.ask(length=length)
                    forward_s = (before["seconds"] + after["seconds"]) / 2
                    found.append({**attributed, "forward_s": forward_s, "plain_peak_bytes": after["peak_bytes"]})
                cases.append(_case(name, length, found))
    return {"model": f"{model}-124m", "rounds": rounds, "cases": cases}


def _case(name: str, length: int, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = [one["seconds"] / one["forward_s"] for one in found]
    return {
        "name": name,
        "length": length,
        "scores": found[0]["scores"],
        "rounds": len(found),
        "forwards": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "bar": BARS.get((name, length)),
        "seconds": statistics.median(one["seconds"] for one in found),
        "forward_s": statistics.median(one["forward_s"] for one in found),
        "peak_bytes": max(one["peak_bytes"] for one in found),
        "plain_peak_bytes": max(one["plain_peak_bytes"] for one in found),
    }


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title=f"Attributions on {result['model']}: the time of how many forward passes", title_justify="left")
    for column in ("attribution", "tokens", "scores", "passes", "range", "bar", "seconds", "MB", "to a pass"):
        found.add_column(column, justify="left" if column == "attribution" else "right")
    for case in result["cases"]:
        found.add_row(
            case["name"],
            str(case["length"]),
            str(case["scores"]),
            f"{case['forwards']:.2f}",
            f"{case['lowest']:.2f} to {case['highest']:.2f}",
            "" if case["bar"] is None else f"{case['bar']:g}",
            f"{case['seconds']:.2f}",
            f"{case['peak_bytes'] / 1e6:.0f}",
            f"x {case['peak_bytes'] / case['plain_peak_bytes']:.2f}",
        )
    return found


def _attribute(folder: Path) -> None:
    with Client.local(model=[str(folder)]) as client:
        metric = logit_diff(ANSWER, OTHER)
        for how in METHODS.values():  # proves gradients and edges, once for the model
            client.attribute(tokens_of(16, 0), tokens_of(16, 1), metric=metric, **how)

        def measure(length: int, name: str) -> dict[str, Any]:
            taken: list[float] = []
            count = 0
            for _ in range(PASSES):
                began = time.perf_counter()
                result = client.attribute(tokens_of(length, 0), tokens_of(length, 1), metric=metric, **METHODS[name])
                taken.append(time.perf_counter() - began)
                count = sum(scores.values.size for scores in result)
            return {"seconds": statistics.median(taken), "scores": count, "peak_bytes": peak_bytes()}

        answer(measure)


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _attribute(Path(options.worker))
        return
    result = run(options.rounds, options.lengths, progress=lambda text: print(text, file=sys.stderr))
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
