"""`neuroscope doctor`: what is installed, what runs, and what to do about the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from neuroscope.analysis import DEFAULT_ANALYSIS_TARGET
from neuroscope.cli import checks
from neuroscope.cli.checks import CheckResult, Status
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import ANALYSIS_TARGET_VARIABLE, TargetOption

_MARKS = {Status.OK: ("✓", "green"), Status.WARNING: ("!", "yellow"), Status.FAILED: ("✗", "red")}


def doctor(
    context: typer.Context,
    port_gateway: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")] = 8080,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
    target: TargetOption = None,
) -> None:
    """Checks this machine, the installation and the services; exit code 1 if something essential is broken."""
    connection = Connection.of(context, target)
    sections: dict[str, Callable[[], Iterable[CheckResult]]] = {
        "machine": checks.machine,
        "packages": checks.packages,
        "engine": checks.engine,
        "models": checks.models,
        "services": lambda: checks.services(
            connection.target,
            port_gateway,
            connection.client,
            os.environ.get(ANALYSIS_TARGET_VARIABLE) or DEFAULT_ANALYSIS_TARGET,
        ),
    }
    found: dict[str, list[CheckResult]] = {}
    for name, check in sections.items():
        with err.status(f"checking: {name}"):
            found[name] = list(check())
    results = [result for section in found.values() for result in section]
    if as_json:
        out.print_json(data={name: [asdict(result) for result in section] for name, section in found.items()})
    else:
        for name, section in found.items():
            out.print(_table(name, section))
        out.print(_conclusion(results))
    if any(result.status is Status.FAILED for result in results):
        raise typer.Exit(1)


def _table(name: str, results: list[CheckResult]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(min_width=20)
    table.add_column(ratio=1)
    table.add_row("", Text(name, "bold"))
    for result in results:
        mark, colour = _MARKS[result.status]
        detail = Text(result.detail)
        if result.hint:
            detail.append(f"\n→ {result.hint}", colour)
        table.add_row(Text(mark, f"bold {colour}"), Text(result.subject), detail)
    return table


def _conclusion(results: list[CheckResult]) -> Text:
    broken = sum(result.status is Status.FAILED for result in results)
    notes = sum(result.status is Status.WARNING for result in results)
    if broken:
        return Text(f"\n{broken} of {len(results)} checks found something broken", "bold red")
    return Text(f"\nall essential checks passed, {notes} note{'' if notes == 1 else 's'}", "bold green")
