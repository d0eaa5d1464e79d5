"""A program that runs benches one after the other: its arguments, its progress, and what it writes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Bench:
    """Something that is measured."""

    run: Callable[..., dict[str, Any]]
    table: Callable[[dict[str, Any]], Table]
    usual: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of `run`."""
    quick: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for figures that are further off."""
    full: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for figures that are closer."""
    traces: bool = False
    """Whether `run` takes a folder for traces."""


def main(prog: str, description: str | None, benches: Mapping[str, Bench], about: Mapping[str, Any]) -> None:
    """Runs what the arguments say.

    Args:
        prog: how the program is called.
        description: for `--help`.
        benches: by the name that an argument gives.
        about: what the results say besides the machine and the versions of this environment; `versions` are added.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", nargs="*", help=f"{', '.join(benches)}; all if none is named")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_const", const="quick", dest="extent", default="usual")
    extent.add_argument("--full", action="store_const", const="full", dest="extent")
    if any(bench.traces for bench in benches.values()):
        parser.add_argument("--traces", type=Path, help="a folder for a trace of each case of tax")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    if unknown := set(options.bench) - set(benches):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; there are {', '.join(benches)}")
    console = Console()
    versions = {name: version(name) for name in ("mlx", "mlx-lm", "grpcio", "protobuf", "numpy")}
    results: dict[str, Any] = {
        **about,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions, **about.get("versions", {})},
    }
    for name in options.bench or benches:
        bench = benches[name]
        arguments: dict[str, Any] = dict(getattr(bench, options.extent))
        if bench.traces:
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


def machine() -> str:
    """Processor, cores and system."""
    return f"{_processor()} ({platform.machine()}), {os.cpu_count()} cores, {platform.system()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        return names[0] if names else "a processor without a name"
    return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
