"""Tables of rich for analyses. Imported only when something is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from neuroscope.analysis.attention import AttentionResult
    from neuroscope.analysis.labels import Evidence, HeadLabel

_COLOURS = {"confirmed": "green", "unconfirmed": "yellow", "not tested": "dim"}


def attention_table(result: AttentionResult) -> Table:
    """A line for each label; without roles, a line for each statistic."""
    table = Table(title=f"{result!r}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    if result.plan is None:
        return table
    if not result.plan.roles:
        for column in ("statistic", "mean", "least", "most"):
            table.add_column(column, justify="left" if column == "statistic" else "right")
        for array in result:
            values = array.values[~np.isnan(array.values)]
            table.add_row(array.name, *(f"{value:.3f}" for value in (values.mean(), values.min(), values.max())))
        return table
    for column in ("role", "head", "score", "verdict", "ablated", "restored"):
        table.add_column(column, justify="left" if column in ("role", "verdict") else "right", no_wrap=True)
    for label in result.labels:
        verdict = Text(label.verdict, _COLOURS[label.verdict])
        effects = {each.probe: _effect(each) for each in label.evidence}
        told = [effects.get(probe, "") for probe in ("ablated", "restored")]
        table.add_row(_role(label), f"{label.layer}.{label.head}", f"{label.score:.2f}", verdict, *told)
    return table


def _role(label: HeadLabel) -> str:
    name = label.role.replace("_", " ")
    return name if label.offset is None else f"{name} ({-label.offset})"


def _effect(evidence: Evidence) -> str:
    """The effect and what it had to exceed, in nats."""
    sign = ">" if evidence.is_passed else "≤"
    return f"{evidence.effect_nats:+.3f} {sign} {evidence.bound_nats:.3f}"
