"""Pictures of circuits: the graph by layer, the faithfulness curve, two circuits in one graph."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, NullFormatter

from neuroscope.circuits.content import NORMAL_95
from neuroscope.circuits.layout import edge_strengths, node_label, node_positions, node_rows, row_key
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.viz import html_figure
from neuroscope.vocabulary.component_names import INPUT, LOGITS

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
_BOTH, _FIRST, _SECOND, _UNCHOSEN = "#6e7781", "#3566a8", "#c2553a", "#d0d7de"
_MOST_VECTOR_POINTS = 2000
_TITLE_CHARACTERS = 110
MOST_EDGES = 60
"""Edges of a picture by default; more are no longer legible at the width of a page."""
_WIDTH, _CURVE_WIDTH = 7.0, 2.2  # inches; the text width of a page, and the share of the curve
_ROW, _LAYER_GAP = 0.24, 0.12  # inches
_HEIGHTS = 2.6, 9.2  # inches, least and most
_PANEL_HEIGHT = 2.0  # inches
_MARGIN, _LEAST_STRETCHED = 0.05, 0.2
_NODE_GAP = 0.5  # inches between the centres of two nodes of a row
_FONT = 7


def draw(circuit: CircuitContent, path: str | Path | None = None, *, edges: int = MOST_EDGES) -> Any:
    """Draws the figure at the width of a page; writes it to `path` if given.

    Args:
        circuit: the circuit.
        path: the file.
        edges: the number of edges, strongest first. The title says how many are hidden.
    """
    if edges < 1:
        raise InvalidRequestError(f"edges is a whole number from 1, not {edges}", field="edges")
    measured = circuit.evaluation
    curve = [] if measured is None else list(measured.curve)
    strong = edge_strengths(circuit)
    shown = sorted(strong, key=lambda name: -strong[name])[:edges]
    colors = {name: (_SLOTS[_slot(circuit.edges[name])], strong[name]) for name in shown}
    against = {name for name in shown if circuit.edges[name].score > 0}
    figure, axes, beside = _figure(circuit, colors, against, has_panel=bool(curve))
    handles = [axes.plot([], [], color=color, label=_READ[slot])[0] for slot, color in _SLOTS.items()]
    if against:
        handles.append(axes.plot([], [], "k:", linewidth=1, label="works against the metric")[0])
    _legend(axes, handles)
    if measured is not None and curve:
        _curve(beside, measured)
    _title(figure, _headline(circuit, len(shown)))
    if path is not None:
        html_figure.write(figure, path, circuit.summary)
    return figure


def image(circuit: CircuitContent, format: str) -> bytes:
    """The figure as the content of a file: png, svg or pdf."""
    return html_figure.to_bytes(draw(circuit), format)


def _headline(circuit: CircuitContent, shown: int) -> str:
    """The name, the size and how well the circuit does."""
    hidden = len(circuit.edges) - shown
    lines = [circuit.summary + (f"; the {shown} strongest edges are shown" if hidden else "")]
    if (measured := circuit.evaluation) is not None:
        line = f"faithfulness {measured.faithfulness:.3f}"
        if measured.HasField("faithfulness_standard_error"):
            line += f" \u00b1 {NORMAL_95 * measured.faithfulness_standard_error:.3f}"
        line += f", completeness {measured.completeness:.3f}" if measured.HasField("completeness") else ""
        line += f", minimality {measured.minimality:.3f}" if measured.HasField("minimality") else ""
        if measured.HasField("stability"):
            line += f", Jaccard of resamples {measured.stability.jaccard:.2f}"
        lines.append(line)
    return "\n".join(lines)


def draw_comparison(comparison: CircuitComparison, path: str | Path | None = None, *, edges: int = MOST_EDGES) -> Any:
    """Draws two circuits in one graph, and a scatter plot of their edge scores.

    Args:
        comparison: the circuits.
        path: the file.
        edges: the number of edges, strongest in either circuit first.
    """
    first, second = comparison.first, comparison.second
    both = first.with_edges([*first.edges, *comparison.only_second])
    color_of = dict.fromkeys(comparison.shared_edges, _BOTH)
    color_of |= dict.fromkeys(comparison.only_first, _FIRST) | dict.fromkeys(comparison.only_second, _SECOND)
    ours, theirs = edge_strengths(first), edge_strengths(second)
    strong = {name: max(ours.get(name, 0.0), theirs.get(name, 0.0)) for name in color_of}
    shown = sorted(strong, key=lambda name: -strong[name])[:edges]
    figure, axes, scatter = _figure(
        both, {name: (color_of[name], strong[name]) for name in shown}, frozenset(), has_panel=True
    )
    names = (first.name or "first", second.name or "second")
    labels = (f"both ({len(comparison.shared_edges)})", f"{names[0]} alone", f"{names[1]} alone")
    drawn = [
        axes.plot([], [], color=color, label=label)[0]
        for color, label in zip((_BOTH, _FIRST, _SECOND), labels, strict=True)
    ]
    _legend(axes, drawn)
    for color in (_UNCHOSEN, _BOTH, _FIRST, _SECOND):
        scored = [name for name in comparison.scored_edges if color_of.get(name, _UNCHOSEN) == color]
        scatter.plot(
            [first.all_edges[name].score for name in scored],
            [second.all_edges[name].score for name in scored],
            ".",
            color=color,
            markersize=3,
            rasterized=len(scored) > _MOST_VECTOR_POINTS,
        )
    scatter.set_xlabel(f"score, {names[0]}", fontsize=_FONT, parse_math=False)
    scatter.set_ylabel(f"score, {names[1]}", fontsize=_FONT, parse_math=False)
    scatter.tick_params(labelsize=_FONT)
    scatter.set_title(f"Pearson {comparison.pearson:.3f}", fontsize=8)
    title = f"{names[0]} and {names[1]}: Jaccard of edges {comparison.edge_jaccard:.3f}"
    hidden = len(strong) - len(shown)
    _title(figure, title + (f"; the {len(shown)} strongest of {len(strong)} edges are shown" if hidden else ""))
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _figure(
    circuit: CircuitContent, drawn: Mapping[str, tuple[str, float]], dotted: Set[str], *, has_panel: bool
) -> tuple[Any, ...]:
    """The figure with the graph, the graph's axes, and those of a panel beside it.

    Args:
        circuit: its nodes at the ends of the drawn edges are shown, and input and logits.
        drawn: colour and strength of each edge.
        dotted: edges with a dotted line.
        has_panel: whether there is a panel.
    """
    lines = [
        (edge.sender, reader, name)
        for name in drawn
        for edge in [circuit.all_edges[name]]
        for reader in circuit.readers(edge.receiver)
        if reader in circuit.nodes
    ]
    ends = {end for sender, reader, _ in lines for end in (sender, reader)} | {INPUT, LOGITS}
    rows = [kept for row in node_rows(circuit) if (kept := [name for name in row if name in ends])]
    width = _WIDTH - (_CURVE_WIDTH if has_panel else 0.0)
    heights = _row_heights(circuit, rows)
    height = min(max(heights[-1] + 2 * _ROW, _HEIGHTS[0]), _HEIGHTS[1])
    figure: Any = Figure(figsize=(_WIDTH, height + 0.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid: Any = figure.add_gridspec(
        2, 2, width_ratios=[width, _WIDTH - width or 0.01], height_ratios=[2.0, height - 2.0]
    )
    axes = figure.add_subplot(grid[:, 0])
    panel = figure.add_subplot(grid[0, 1]) if has_panel else None
    weights = [(sender, reader, drawn[name][1] + 0.05) for sender, reader, name in lines]
    across = _stretched(node_positions(rows, weights, _NODE_GAP / width))
    where = {
        name: (across[name], y / max(heights[-1], _ROW)) for row, y in zip(rows, heights, strict=False) for name in row
    }
    _draw_edges(axes, lines, drawn, dotted, where)
    _draw_nodes(axes, circuit, rows, where)
    axes.set_xlim(-0.06, 1.02)
    axes.set_ylim(-0.04, 1.04)
    axes.axis("off")
    return figure, axes, panel


def _stretched(across: Mapping[str, float]) -> dict[str, float]:
    """Positions over the whole width."""
    least, most = min(across.values(), default=0.0), max(across.values(), default=1.0)
    if most - least < _LEAST_STRETCHED:
        return dict(across)
    return {name: _MARGIN + (1 - 2 * _MARGIN) * (x - least) / (most - least) for name, x in across.items()}


def _row_heights(circuit: CircuitContent, rows: Sequence[Sequence[str]]) -> list[float]:
    """The height of each row in inches; rows of one layer are closer to each other than layers are."""
    if not rows:
        return [0.0]
    heights, layer = [0.0], row_key(circuit.all_nodes[rows[0][0]])[0]
    for row in rows[1:]:
        next_layer = row_key(circuit.all_nodes[row[0]])[0]
        heights.append(heights[-1] + _ROW + (_LAYER_GAP if next_layer != layer else 0.0))
        layer = next_layer
    return heights


def _draw_edges(
    axes: Any,
    lines: Sequence[tuple[str, str, str]],
    drawn: Mapping[str, tuple[str, float]],
    dotted: Set[str],
    where: Mapping[str, tuple[float, float]],
) -> None:
    """Draws edges by colour and strength, the strongest on top."""
    for sender, reader, name in sorted(lines, key=lambda line: drawn[line[2]][1]):
        color, strength = drawn[name][0], drawn[name][1] ** 0.5
        arrow: Any = FancyArrowPatch(
            where[sender],
            where[reader],
            connectionstyle="arc3,rad=0.06",
            arrowstyle="-",
            color=color,
            linestyle=":" if name in dotted else "-",
            alpha=0.3 + 0.6 * strength,
            linewidth=0.5 + 2.5 * strength,
            zorder=1,
        )
        axes.add_patch(arrow)


def _draw_nodes(
    axes: Any, circuit: CircuitContent, rows: Sequence[Sequence[str]], where: Mapping[str, tuple[float, float]]
) -> None:
    """Draws nodes in rows, with the layer at the left."""
    named: set[int] = set()
    for row in rows:
        for name in row:
            node = circuit.all_nodes[name]
            shape = "round,pad=0.2" if node.kind == pb.CIRCUIT_NODE_KIND_HEAD else "square,pad=0.2"
            fill = _FILLS.get(node.kind, "white")
            box = {"boxstyle": shape, "facecolor": fill, "edgecolor": "#57606a", "linewidth": 0.5}
            axes.text(
                *where[name],
                node_label(node),
                ha="center",
                va="center",
                fontsize=_FONT,
                bbox=box,
                zorder=2,
                parse_math=False,
            )
        node = circuit.all_nodes[row[0]]
        if node.HasField("layer") and node.layer not in named:
            named.add(node.layer)
            axes.text(-0.05, where[row[0]][1], str(node.layer), ha="left", va="center", fontsize=_FONT, color="#57606a")


def _legend(axes: Any, handles: Sequence[Any]) -> None:
    axes.legend(
        handles=handles,
        fontsize=_FONT,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(handles),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.0,
    )


def _title(figure: Any, text: str) -> None:
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, _TITLE_CHARACTERS)]
    figure.suptitle("\n".join(lines), fontsize=8, parse_math=False)


def _curve(axes: Any, measured: pb.CircuitEvaluation) -> None:
    sizes = [point.size for point in measured.curve]
    axes.semilogx(
        sizes, [point.faithfulness for point in measured.curve], "o-", color=_FIRST, markersize=3, linewidth=1
    )
    axes.axhline(1.0, color="#d0d7de", linewidth=0.8)
    axes.axhline(0.0, color="#d0d7de", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("edges kept, %", fontsize=_FONT)
    axes.set_ylabel("faithfulness", fontsize=_FONT)
    axes.tick_params(labelsize=_FONT)
    title = f"CPR {measured.cpr:.3f}" if measured.HasField("cpr") else ""
    title += f", CMD {measured.cmd:.3f}" if measured.HasField("cmd") else ""
    axes.set_title(title, fontsize=8)


def _percent(size: float, index: int | None = None) -> str:
    return f"{100 * size:g}"


def _slot(edge: pb.CircuitEdge) -> str:
    return edge.receiver[-2] if edge.receiver.endswith(">") else ""
