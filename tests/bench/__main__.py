"""Runs the benches, one after the other, and prints what they found.

    python -m tests.bench [wire] [capture] [tax] [concurrency] [rest] [sweep] [--quick|--full] [--json FILE]
        [--traces FOLDER]

`--quick` takes two minutes instead of about ten: less data and fewer rounds, so figures that are further off. `--full`
takes an hour and a half, and has the figures of docs/performance.md, which `python -m scripts.make_performance_page`
makes of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench import capture, concurrency, rest, sweep, tax, wire


@dataclass(frozen=True, slots=True)
class Bench:
    """A module of this package."""

    run: Callable[..., dict[str, Any]]
    table: Callable[[dict[str, Any]], Table]
    usual: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of `run`."""
    quick: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for figures that are further off."""
    full: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for figures that are closer."""


BENCHES: Mapping[str, Bench] = {
    "wire": Bench(wire.run, wire.table, quick={"gigabytes": 0.2, "rounds": 1}),
    "capture": Bench(capture.run, capture.table, quick={"gigabytes": 0.2, "rounds": 1}),
    "tax": Bench(
        tax.run,
        tax.table,
        usual={"rounds": 3, "tokens": 32},
        quick={"models": ("llama", "bundled"), "rounds": 1, "tokens": 8},
        full={"rounds": 20, "tokens": 128},
    ),
    "concurrency": Bench(
        concurrency.run,
        concurrency.table,
        usual={"rounds": 3, "tokens": 32},
        quick={"models": ("llama", "bundled"), "rounds": 1, "tokens": 16},
        full={"rounds": 5, "tokens": 64},
    ),
    "rest": Bench(
        rest.run,
        rest.table,
        usual={"models": ("llama", "bundled"), "rounds": 4, "tokens": 24},
        quick={"models": ("bundled",), "rounds": 2, "tokens": 16},
        full={"rounds": 10, "tokens": 64},
    ),
    "sweep": Bench(
        sweep.run,
        sweep.table,
        usual={"rounds": 3},
        quick={"rounds": 1, "sweeps": ("resid", "last")},
        full={"rounds": 10, "lengths": (64, 256, 1024)},
    ),
}


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", nargs="*", help=f"{', '.join(BENCHES)}; all if none is named")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_const", const="quick", dest="extent", default="usual")
    extent.add_argument("--full", action="store_const", const="full", dest="extent")
    parser.add_argument("--traces", type=Path, help="a folder for a trace of each case of tax")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    if unknown := set(options.bench) - set(BENCHES):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    console = Console()
    versions = {name: version(name) for name in ("mlx", "mlx-lm", "grpcio", "protobuf", "numpy")}
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version(), **versions},
    }
    for name in options.bench or BENCHES:
        bench = BENCHES[name]
        arguments: dict[str, Any] = dict(getattr(bench, options.extent))
        if name == "tax":
            arguments["traces"] = options.traces
        columns = SpinnerColumn(), TextColumn(f"{name}: {{task.description}}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting")

            def tell(text: str, progress: Progress = progress, task: TaskID = task) -> None:
                progress.update(task, description=text)

            results[name] = bench.run(**arguments, progress=tell)
        console.print(bench.table(results[name]))
        console.print()
        if options.json:
            options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
