"""Tables of attention analyses."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.results.labels import RANKED_ROLES
from neuroscope.viz.text_table import TextTable

if TYPE_CHECKING:
    from neuroscope.results.attention import AttentionResult
    from neuroscope.results.comparison import AttentionComparison
    from neuroscope.results.composition import CompositionResult
    from neuroscope.results.interactions import InteractionGraph
    from neuroscope.results.labels import Evidence, HeadLabel

_BY_PATHS = ("name_mover", "s_inhibition")
_COLOURS = {"confirmed": "green", "unconfirmed": "yellow", "not tested": "dim"}
_MARKS = {"confirmed": "✓", "unconfirmed": "✗", "not tested": ""}
_TOP = 10


def attention_table(result: AttentionResult) -> Table:
    """A row for each labelled head with the role that describes it, and its other roles; if no roles were scored, a
    row for each statistic."""
    table = _table(result)
    if result.plan is None:
        return table
    if not result.plan.roles:
        for column in ("statistic", "mean", "least", "most"):
            table.add_column(column, justify="left" if column == "statistic" else "right")
        for array in result:
            values = array.values[~np.isnan(array.values)]
            table.add_row(array.name, *(f"{value:.3f}" for value in (values.mean(), values.min(), values.max())))
        return table
    for column in ("head", "role", "score", "verdict", "effect (nats)", "other roles"):
        table.add_column(column, justify="right" if column in ("head", "score") else "left", no_wrap=True)
    others: dict[tuple[int, int], list[str]] = {}
    best = result.best_labels
    for label in result.labels:
        if label not in best:
            others.setdefault((label.layer, label.head), []).append(f"{_role(label)}{_MARKS[label.verdict]}")
    for label in sorted(best, key=lambda label: (not label.is_confirmed, label.layer, label.head)):
        table.add_row(
            f"{label.layer}.{label.head}",
            _role(label),
            _score(label),
            Text(label.verdict, _COLOURS[label.verdict]),
            _strongest_effect(label),
            ", ".join(others.get((label.layer, label.head), ())),
        )
    table.caption = "other roles: ✓ confirmed, ✗ not confirmed, no mark: not tested"
    return table


def label_table(result: AttentionResult) -> Table:
    """A row for every label with its evidence."""
    table = _table(result)
    if result.plan is None:
        return table
    probes = ["ablated", "restored"] if any(role not in _BY_PATHS for role in result.roles) else []
    probes += ["patched"] if any(role in _BY_PATHS for role in result.roles) else []
    for column in ("role", "head", "score", "verdict", *probes, "sequences"):
        table.add_column(column, justify="left" if column in ("role", "verdict") else "right", no_wrap=True)
    for label in result.labels:
        verdict = Text(label.verdict, _COLOURS[label.verdict])
        effects = {each.probe: _effect(each) for each in label.evidence}
        cells = [effects.get(probe, "") for probe in probes]
        count = str(max((each.sequence_count for each in label.evidence), default=""))
        table.add_row(_role(label), f"{label.layer}.{label.head}", _score(label), verdict, *cells, count)
    return table


def summary_table(result: AttentionResult) -> Table:
    """A row for each role: how many heads have it, how many are confirmed, and the ten with the largest score,
    confirmed ones first."""
    table = _table(result)
    for column in ("role", "heads", "confirmed", "refused", "largest scores"):
        table.add_column(column, justify="left" if column in ("role", "largest scores") else "right")
    if result.plan is None:
        return table
    for role in sorted(result.roles, key=RANKED_ROLES.index):
        labels = [label for label in result.labels if label.role == role]
        verdicts = Counter(label.verdict for label in labels)
        tested = len(labels) - verdicts["not tested"]
        strongest = sorted(labels, key=lambda label: (not label.is_confirmed, -_told_score(label)))[:_TOP]
        shown = [  # without a space, so that a head and its score stay on one line
            f"{label.layer}.{label.head}{_MARKS[label.verdict]}({_told_score(label):.2f})" for label in strongest
        ]
        more = len(labels) - len(strongest)
        table.add_row(
            role.replace("_", " "),
            f"{len(labels)}",
            f"{verdicts['confirmed']}" if tested else "",
            f"{verdicts['unconfirmed']}" if tested else "",
            " ".join(shown) + (f" and {more} more" if more else ""),
        )
    table.caption = "✓ confirmed, ✗ refused; of copying and suppression the share of tokens in place of the score"
    return table


def comparison_table(result: AttentionComparison, count: int = 12) -> Table:
    """A row for each of the heads whose patterns differ most."""
    table = _table(result)
    if result.plan is None or result.end is None:
        return table
    statistics = ("entropy", "distance", "first_token")
    for column in ("head", "JS", "TV", *(name.replace("_", " ") for name in statistics)):
        table.add_column(column, justify="right", no_wrap=True)
    variation, both = result["total_variation"], {name: result[name] for name in statistics}
    for (layer, head), divergence in result.most_changed(count):
        heads = (grid.sel(layer=layer, head=head).values for grid in both.values())
        cells = [f"{first:.2f} → {second:.2f}" for first, second in heads]
        row = f"{variation.sel(layer=layer, head=head).values:.3f}"
        table.add_row(f"{layer}.{head}", f"{divergence:.3f}", row, *cells)
    return table


def composition_table(result: CompositionResult, count: int = 12) -> Table:
    """A row for each of the strongest pairs."""
    table = _table(result)
    if result.plan is None or result.end is None:
        return table
    for column in ("kind", "writer", "reader", "score", "random heads", "deviations"):
        table.add_column(column, justify="left" if column == "kind" else "right", no_wrap=True)
    for kind, writer, reader, score in result.top(count):
        mean, deviation = result.baseline(kind)
        cells = (f"{score:.3f}", f"{mean:.3f} ± {deviation:.3f}", f"{(score - mean) / deviation:+.1f}")
        table.add_row(kind.upper(), *(f"{layer}.{head}" for layer, head in (writer, reader)), *cells)
    return table


def interactions_table(result: InteractionGraph, count: int = 40) -> Table:
    """A row for each interaction."""
    table = _table(result)
    for column in ("writer", "reader", "effect", "± error", "p"):
        table.add_column(column, justify="left" if column == "reader" else "right", no_wrap=True)
    for each in result.interactions[:count]:
        cells = (f"{each.effect:+.3f}", f"{each.standard_error:.3f}", f"{each.p_value:.1e}")
        table.add_row(f"a{each.sender[0]}.h{each.sender[1]}", each.reader, *cells)
    return table


def _table(result: object) -> Table:
    return TextTable(title=f"{result!r}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)


def _role(label: HeadLabel) -> str:
    name = label.role.replace("_", " ")
    return name if label.offset is None else f"{name} ({-label.offset})"


def _score(label: HeadLabel) -> str:
    """The score; of roles by weights the share of tokens, which says more."""
    if label.null_comparison is None:
        return f"{label.score:.2f}"
    return f"{label.score:.2f}, {label.null_comparison.value:.0%} of tokens"


def _told_score(label: HeadLabel) -> float:
    return label.score if label.null_comparison is None else label.null_comparison.value


def _strongest_effect(label: HeadLabel) -> str:
    """The test that is passed by most, or fails by least."""
    if not label.evidence:
        return ""
    best = max(label.evidence, key=lambda each: (each.is_passed, each.effect_nats - each.bound_nats))
    return f"{_effect(best)}, {best.probe}"


def _effect(evidence: Evidence) -> str:
    """The effect and its bound, in nats."""
    sign = ">" if evidence.is_passed else "≤"
    return f"{evidence.effect_nats:+.3f} {sign} {evidence.bound_nats:.3f}"
