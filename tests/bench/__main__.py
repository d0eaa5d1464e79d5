"""Runs the benches, one after the other, and prints what they found.

    python -m tests.bench [wire] [capture] [speed] [--quick] [--json FILE]

`--quick` takes a minute or so instead of about ten: less data and fewer rounds, so figures that are further off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench import capture, speed, wire


@dataclass(frozen=True, slots=True)
class Bench:
    """A module of this package."""

    run: Callable[..., dict[str, Any]]
    table: Callable[[dict[str, Any]], Table]
    quick: Mapping[str, Any]
    """Arguments of `run` for figures that are further off."""


BENCHES: Mapping[str, Bench] = {
    "wire": Bench(wire.run, wire.table, {"gigabytes": 0.2, "rounds": 1}),
    "capture": Bench(capture.run, capture.table, {"gigabytes": 0.2, "rounds": 1}),
    "speed": Bench(speed.run, speed.table, {"rounds": 2}),
}


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", nargs="*", help=f"{', '.join(BENCHES)}; all if none is named")
    parser.add_argument("--quick", action="store_true")
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
        arguments = bench.quick if options.quick else {}
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
