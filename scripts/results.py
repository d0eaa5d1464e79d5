"""What generated pages share: rounded figures, Markdown tables, and names grouped by equal results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

Result = TypeVar("Result")


def rounded(value: Any) -> Any:
    """Results of a bench with four significant digits, without single rounds."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {key: rounded(held) for key, held in entries if not key.endswith("_rounds")}
    if isinstance(value, list):
        return [rounded(held) for held in cast("list[Any]", value)]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with one line per row."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def grouped(named: Iterable[tuple[Result, str]]) -> list[tuple[Result, list[str]]]:
    """Every result once, with the names that have it."""
    groups: dict[Result, list[str]] = {}
    for result, name in named:
        groups.setdefault(result, []).append(name)
    return list(groups.items())
