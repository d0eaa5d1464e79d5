"""Picture of information flow: components from the input up to the logits, skip edges in colour."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from neuroscope.results.flow import component_of, depth
from neuroscope.viz import html_figure, page

if TYPE_CHECKING:
    from neuroscope.results.flow import InformationFlow

_LABEL = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
_SKIP, _RAISES, _LOWERS = "#d1495b", "#3b6fb6", "#9a9a9a"


def draw(flow: InformationFlow, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    figure: Any = Figure(figsize=size(flow), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draw_on(figure.subplots(), flow)
    if path is not None:
        html_figure.write(figure, path, "Flow of information")
    return figure


def size(flow: InformationFlow) -> tuple[float, float]:
    """Width and height of the graph in inches."""
    rows = _rows(flow)
    return max(5.0, 1.3 * max(map(len, rows), default=1)), 1.4 + 0.75 * len(rows)


def draw_on(axes: Any, flow: InformationFlow) -> None:
    """Draws the graph on matplotlib axes."""
    places: dict[str, tuple[float, float]] = {}
    for row, nodes in enumerate(_rows(flow)):
        for column, node in enumerate(nodes):
            places[node] = (column - (len(nodes) - 1) / 2, float(row))
    strongest = max((abs(edge.effect) for edge in flow.edges), default=1.0)
    for edge in flow.edges:
        colour = _SKIP if edge.is_skip else _RAISES if edge.effect > 0 else _LOWERS
        begin, end = places[edge.writer], places[component_of(edge.reader)]
        bend = 0.0 if end[1] - begin[1] < 2 else 0.22
        arrow = FancyArrowPatch(
            begin,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=13,
            shrinkB=13,
            connectionstyle=f"arc3,rad={bend}",
            linewidth=0.6 + 3.0 * abs(edge.effect) / strongest,
            color=colour,
            alpha=0.85,
        )
        axes.add_patch(arrow)
        middle = (
            (begin[0] + end[0] + bend * (end[1] - begin[1])) / 2,
            (begin[1] + end[1] - bend * (end[0] - begin[0])) / 2,
        )
        part = edge.reader.partition("<")[2].rstrip(">")
        axes.text(
            *middle,
            f"{part} {edge.effect:+.2f}".strip(),
            fontsize=page.POINTS,
            color=colour,
            ha="center",
            va="center",
            bbox=_LABEL,
        )
    for node, (x, y) in places.items():
        axes.text(
            x,
            y,
            node,
            fontsize=page.POINTS,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#444", "linewidth": 0.8},
        )
    widest = max((abs(x) for x, _ in places.values()), default=0.0)
    axes.set_xlim(-widest - 1, widest + 1.4)
    axes.set_ylim(-0.6, len(_rows(flow)) - 0.4)
    axes.axis("off")
    axes.set_title(
        "Flow of information: share of the metric's change along each path; skips in red", fontsize=page.TITLE_POINTS
    )


def _rows(flow: InformationFlow) -> list[list[str]]:
    """Nodes by depth, from the bottom."""
    rows: dict[float, list[str]] = defaultdict(list)
    for node in flow.nodes:
        rows[depth(node)].append(node)
    return [rows[key] for key in sorted(rows)]
