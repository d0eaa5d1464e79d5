"""Pictures of circuits: the graph by layer, the faithfulness curve, two circuits in one graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, NullFormatter

from neuroscope.circuits.layout import edge_strengths, node_label, node_positions, node_rows
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.viz import html_figure

if TYPE_CHECKING:
    from neuroscope.circuits.comparison import CircuitComparison
    from neuroscope.circuits.content import CircuitContent

_FILLS = {
    pb.CIRCUIT_NODE_KIND_HEAD: "#e7effa",
    pb.CIRCUIT_NODE_KIND_MLP: "#faf0de",
    pb.CIRCUIT_NODE_KIND_DIRECTION: "#f0e7fa",
}
_SLOTS = {"q": "#3566a8", "k": "#c2553a", "v": "#4a8f5a", "": "#6e7781"}
_READ = {"q": "queries", "k": "keys", "v": "values", "": "MLP, logits"}
_BOTH, _FIRST, _SECOND = "#6e7781", "#3566a8", "#c2553a"
_ROW, _COLUMN = 0.5, 0.62  # inches
_LARGEST = 80.0


def draw(circuit: CircuitContent, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    measured = circuit.evaluation
    curve = [] if measured is None else list(measured.curve)
    width, height = _extent(circuit)
    beside = 3.4 if curve else 0.0
    figure = _figure(width + beside, height)
    grid: Any = figure.add_gridspec(1, 2 if curve else 1, width_ratios=[width, beside] if curve else None)
    axes = figure.add_subplot(grid[0, 0])
    strong = edge_strengths(circuit)
    _graph(axes, circuit, {name: (_SLOTS[_slot(edge)], strong[name]) for name, edge in circuit.edges.items()})
    handles = [axes.plot([], [], color=color, label=_READ[slot])[0] for slot, color in _SLOTS.items()]
    axes.legend(handles=handles, fontsize=6, loc="lower right", frameon=False)
    if measured is not None and curve:
        _curve(figure.add_subplot(grid[0, 1]), measured)
    title = circuit.summary
    if measured is not None:
        title += f"\nfaithfulness {measured.faithfulness:.3f}"
        title += f", completeness {measured.completeness:.3f}" if measured.HasField("completeness") else ""
        title += f", minimality {measured.minimality:.3f}" if measured.HasField("minimality") else ""
    figure.suptitle(title, fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, circuit.summary)
    return figure


def draw_comparison(comparison: CircuitComparison, path: str | Path | None = None) -> Any:
    """Draws two circuits in one graph, and a scatter plot of their edge scores."""
    first, second = comparison.first, comparison.second
    both = first.with_edges([*first.edges, *comparison.only_second])
    colors = dict.fromkeys(comparison.shared_edges, _BOTH)
    colors |= dict.fromkeys(comparison.only_first, _FIRST) | dict.fromkeys(comparison.only_second, _SECOND)
    width, height = _extent(both)
    figure = _figure(width + 3.4, height)
    grid: Any = figure.add_gridspec(1, 2, width_ratios=[width, 3.4])
    axes = figure.add_subplot(grid[0, 0])
    ours, theirs = edge_strengths(first), edge_strengths(second)
    _graph(
        axes, both, {name: (color, max(ours.get(name, 0.0), theirs.get(name, 0.0))) for name, color in colors.items()}
    )
    names = (first.name or "first", second.name or "second")
    labels = (f"both ({len(comparison.shared_edges)})", f"{names[0]} alone", f"{names[1]} alone")
    drawn = [
        axes.plot([], [], color=color, label=label)[0]
        for color, label in zip((_BOTH, _FIRST, _SECOND), labels, strict=True)
    ]
    axes.legend(handles=drawn, fontsize=6, loc="lower right", frameon=False)
    scatter = figure.add_subplot(grid[0, 1])
    for name in comparison.scored_edges:
        color = colors.get(name, "#d0d7de")
        scatter.plot(first.all_edges[name].score, second.all_edges[name].score, ".", color=color, markersize=3)
    scatter.set_xlabel(f"score, {names[0]}", fontsize=7, parse_math=False)
    scatter.set_ylabel(f"score, {names[1]}", fontsize=7, parse_math=False)
    scatter.tick_params(labelsize=6)
    scatter.set_title(f"Pearson {comparison.pearson:.3f}", fontsize=8)
    title = f"{names[0]} and {names[1]}: Jaccard of edges {comparison.edge_jaccard:.3f}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _graph(axes: Any, circuit: CircuitContent, drawn: Mapping[str, tuple[str, float]]) -> None:
    """Draws nodes in rows, and edges by colour and strength with the strongest on top."""
    where = node_positions(circuit)
    for name, (color, strength) in sorted(drawn.items(), key=lambda entry: entry[1][1]):
        edge = circuit.all_edges[name]
        for reader in circuit.readers(edge.receiver):
            if edge.sender in where and reader in where:
                arrow: Any = FancyArrowPatch(
                    where[edge.sender],
                    where[reader],
                    connectionstyle="arc3,rad=0.08",
                    arrowstyle="-",
                    color=color,
                    alpha=0.25 + 0.6 * strength,
                    linewidth=0.3 + 2.7 * strength,
                    zorder=1,
                )
                axes.add_patch(arrow)
    for name, (x, y) in where.items():
        node = circuit.all_nodes[name]
        shape = "round,pad=0.25" if node.kind == pb.CIRCUIT_NODE_KIND_HEAD else "square,pad=0.25"
        box = {"boxstyle": shape, "facecolor": _FILLS.get(node.kind, "white"), "edgecolor": "#57606a", "linewidth": 0.6}
        axes.text(x, y, node_label(node), ha="center", va="center", fontsize=6.5, bbox=box, zorder=2)
    axes.set_xlim(-0.06, 1.06)
    axes.set_ylim(-0.05, 1.05)
    axes.axis("off")


def _curve(axes: Any, measured: pb.CircuitEvaluation) -> None:
    sizes = [point.size for point in measured.curve]
    axes.semilogx(
        sizes, [point.faithfulness for point in measured.curve], "o-", color=_FIRST, markersize=3, linewidth=1
    )
    axes.axhline(1.0, color="#d0d7de", linewidth=0.8)
    axes.axhline(0.0, color="#d0d7de", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("edges kept, %", fontsize=7)
    axes.set_ylabel("faithfulness", fontsize=7)
    axes.tick_params(labelsize=6)
    title = f"CPR {measured.cpr:.3f}" if measured.HasField("cpr") else ""
    title += f", CMD {measured.cmd:.3f}" if measured.HasField("cmd") else ""
    axes.set_title(title, fontsize=8)


def _percent(size: float, index: int | None = None) -> str:
    return f"{100 * size:g}"


def _figure(width: float, height: float) -> Any:
    figure: Any = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _extent(circuit: CircuitContent) -> tuple[float, float]:
    rows = node_rows(circuit)
    width, height = _COLUMN * max(map(len, rows), default=1) + 0.4, _ROW * len(rows) + 0.8
    return min(max(4.0, width), _LARGEST), min(max(3.0, height), _LARGEST)


def _slot(edge: pb.CircuitEdge) -> str:
    return edge.receiver[-2] if edge.receiver.endswith(">") else ""
