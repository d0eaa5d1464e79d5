"""How many sets of edges a sweep evaluates in the time of one forward pass.

    python -m tests.bench.edges [--models gpt2 bundled] [--rounds 3] [--json FILE]

Two processes with the same model, as in `tests.bench.sweep`: one runs whole forward passes with mlx-lm alone, the other
sweeps with the engine in its process (`Client.local`). A round times forward passes, a sweep, and forward passes again;
its ratio is that of the cells per second to the mean of the passes. The prompts of a pair differ from the fourth token.

each: edges alone, as exact edge patching takes them, spread evenly over the graph. halves: random halves of all edges,
as in circuits' curves: every receiver has an input of its own. acdc: half way through the model, edges into what lies
behind are decided, a third of them kept, and one sender after the other is taken from a receiver.
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

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from neuroscope import Client
from neuroscope.circuits import ComponentGraph
from neuroscope.experiments import logit_diff
from tests.bench.models import model_folder
from tests.bench.sweep import ANSWER, OTHER, peak_bytes, tokens_of
from tests.bench.worker import Worker, answer

CASES = {"each": 192, "halves": 24, "acdc": 48}
"""Cells of each sweep."""
SHARED = 3
LENGTHS = {"gpt2": 32, "bundled": 16}


def run(
    models: Sequence[str] = ("gpt2", "bundled"),
    rounds: int = 3,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures every sweep on every model."""
    cases: list[dict[str, Any]] = []
    for model in models:
        with (
            model_folder(model) as folder,
            Worker("tests.bench.sweep", "--worker", "forward", str(folder)) as plain,
            Worker("tests.bench.edges", "--worker", str(folder)) as sweeping,
        ):
            length = LENGTHS[model]
            for name in CASES:
                found: list[dict[str, Any]] = []
                for number in range(rounds):
                    progress(f"{name} of {model}, round {number + 1} of {rounds}")
                    before = plain.ask(length=length)
                    swept = sweeping.ask(length=length, name=name)
                    after = plain.ask(length=length)
                    found.append({**swept, "forward_s": (before["seconds"] + after["seconds"]) / 2})
                cases.append(_case(model, name, length, found))
    return {"rounds": rounds, "cases": cases}


def _case(model: str, name: str, length: int, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = [one["cells"] / one["seconds"] * one["forward_s"] for one in found]
    return {
        "model": model,
        "name": name,
        "length": length,
        "edges": found[0]["edges"],
        "cells": found[0]["cells"],
        "cells_per_forward": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "cells_per_s": statistics.median(one["cells"] / one["seconds"] for one in found),
        "forward_s": statistics.median(one["forward_s"] for one in found),
        "most_rows": max(one["most_rows"] for one in found),
        "peak_bytes": max(one["peak_bytes"] for one in found),
    }


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title="Sets of edges: cells in the time of one forward pass", title_justify="left")
    for column in ("model", "sweep", "tokens", "edges", "cells", "per pass", "range", "cells/s", "rows", "MB"):
        found.add_column(column, justify="left" if column in ("model", "sweep") else "right")
    for case in result["cases"]:
        found.add_row(
            case["model"],
            case["name"],
            str(case["length"]),
            str(case["edges"]),
            str(case["cells"]),
            f"{case['cells_per_forward']:.2f}",
            f"{case['lowest']:.2f} to {case['highest']:.2f}",
            f"{case['cells_per_s']:.1f}",
            str(case["most_rows"]),
            f"{case['peak_bytes'] / 1e6:.0f}",
        )
    return found


def sets_of(graph: ComponentGraph, name: str) -> NDArray[np.bool_]:
    """The changed edges of the cells of a sweep (cells, senders, receivers)."""
    random, count = np.random.default_rng(0), CASES[name]
    shape = count, *graph.mask.shape
    match name:
        case "each":
            found = np.zeros(shape, bool)
            edges = np.argwhere(graph.mask)
            chosen = edges[np.linspace(0, len(edges) - 1, count).astype(int)]
            found[np.arange(count), chosen[:, 0], chosen[:, 1]] = True
            return found
        case "halves":
            return graph.mask & (random.random(shape) < 0.5)
        case _:
            middle = len(graph.receivers) // 2
            decided = graph.mask & (random.random(graph.mask.shape) > 1 / 3)
            decided[:, : middle + 1] = False
            found = np.repeat(decided[None], count, axis=0)
            last = graph.sender_counts[middle]
            for cell in range(count):  # one sender more in each
                found[cell, last - 1 - cell % last : last, middle] = True
            return found


def _sweep(folder: Path) -> None:
    with Client.local(model=[str(folder)]) as client:
        metric = logit_diff(ANSWER, OTHER)
        graph = client.edge_graph()
        client.patch(tokens_of(8, 0), tokens_of(8, 1)).edges(graph.mask[None]).run(metric)  # proves the way

        def measure(length: int, name: str) -> dict[str, Any]:
            clean = tokens_of(length, 0)
            corrupted = [*clean[:SHARED], *tokens_of(length - SHARED, 1)]
            sets = sets_of(graph, name)
            began = time.perf_counter()
            result = client.patch(clean, corrupted, into="clean").edges(sets).run(metric)
            seconds = time.perf_counter() - began
            assert result.end is not None
            return {
                "seconds": seconds,
                "cells": len(sets),
                "edges": graph.edge_count,
                "most_rows": result.end.most_rows,
                "peak_bytes": peak_bytes(),
            }

        answer(measure)


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["gpt2", "bundled"], choices=list(LENGTHS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _sweep(Path(options.worker))
        return
    result = run(options.models, options.rounds, progress=lambda text: print(text, file=sys.stderr))
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
