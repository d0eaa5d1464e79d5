"""What pages of measurements have in common: figures in the digits that they have, and tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast


def rounded(value: Any) -> Any:
    """Results of a bench in the digits that they have; single rounds are left out."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {key: rounded(held) for key, held in entries if not key.endswith("_rounds")}
    if isinstance(value, list):
        return [rounded(held) for held in cast("list[Any]", value)]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, a line for each row."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
