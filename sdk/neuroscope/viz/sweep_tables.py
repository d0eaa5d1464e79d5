"""Tables of sweeps and attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.viz.text_table import TextTable

if TYPE_CHECKING:
    from neuroscope.experiments.attribution_result import AttributionResult
    from neuroscope.experiments.scores import Scores
    from neuroscope.experiments.sweep_result import SweepResult

STRONGEST = 10


def result_table(result: SweepResult) -> Table:
    """A row for each grid: its axes and its strongest cell."""
    from neuroscope.experiments.sweep_result import METHOD_NAMES

    plan = result.plan
    title = f"{result!r}"
    if plan is not None:
        title += f", {METHOD_NAMES.get(plan.method, '')}"
        if result.end is not None:
            title += f", {result.end.elapsed_seconds:.1f} s"
    table = TextTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in ("swept", "axes", "clean", "corrupted", "strongest", "value"):
        table.add_column(column, justify="right" if column in ("clean", "corrupted", "value") else "left")
    for name in result.names if plan is not None else ():
        scores = result[name]
        place, value = scores.top(1)[0]
        axes = " x ".join(f"{size} {dim}s" for dim, size in scores.sizes.items())
        table.add_row(name, axes, _mean(scores.clean), _mean(scores.corrupted), _place(place, scores), f"{value:.4f}")
    return table


def attribution_table(result: AttributionResult) -> Table:
    """The strongest scores."""
    plan, title = result.plan, f"{result!r}"
    if plan is not None and result.end is not None:
        title += f", {result.end.elapsed_seconds:.1f} s"
        if result.completeness:
            title += f", completeness gap {result.completeness_gap:.1%}"
    table = TextTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("scored")
    table.add_column("where")
    table.add_column("change", justify="right")
    for name, place, value in result.top(STRONGEST) if result.end is not None else ():
        table.add_row(*map(Text, (name, _place(place, result[name]))), f"{value:+.4f}")
    return table


def scores_table(scores: Scores, count: int = STRONGEST) -> Table:
    """The cells with the largest effects."""
    title = f"{scores.name}: {scores.metric}, clean {_mean(scores.clean)}, corrupted {_mean(scores.corrupted)}"
    table = TextTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for dim in scores.dims:
        table.add_column(dim, justify="right")
    table.add_column("value", justify="right")
    table.add_column("change", justify="right")
    effects = scores.effects()
    for place, value in scores.top(count):
        change = float(effects.sel(**place).values)
        cells = [_coordinate(dim, entry, scores) for dim, entry in place.items()]
        table.add_row(*map(Text, cells), f"{value:.4f}", f"{change:+.4f}")
    return table


def _place(place: dict[str, Any], scores: Scores) -> str:
    return ", ".join(f"{dim} {_coordinate(dim, entry, scores)}" for dim, entry in place.items())


def _coordinate(dim: str, entry: Any, scores: Scores) -> str:
    """A coordinate as text; positions with their token."""
    if dim == "position" and scores.tokens and -len(scores.tokens) <= entry < len(scores.tokens):
        return f"{entry} {scores.tokens[entry]!r}"
    return str(entry)


def _mean(values: NDArray[np.float32]) -> str:
    return "" if np.isnan(values).all() else f"{values.mean():.4f}"
