"""Picture of interactions: heads by layer, bottom up, with arrows from senders to receivers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.viz import html_figure

if TYPE_CHECKING:
    from neuroscope.results.interactions import InteractionGraph

_COLOURS = {"q": "#3b6fb6", "k": "#e8930c", "v": "#0fa394", "logits": "#6b7380"}
_WIDEST = 4.0  # points
_ACROSS, _UP = 1.1, 1.2  # inches between heads and between layers


def draw(result: InteractionGraph, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    graph = result.to_networkx()
    heads = sorted(node for node in graph if node != "logits")
    layers = sorted({layer for layer, _ in heads})
    rows = {layer: [head for at, head in heads if at == layer] for layer in layers}
    widest = max((len(row) for row in rows.values()), default=1)
    places: dict[Any, tuple[float, float]] = {
        (layer, head): ((index + 0.5) * widest / len(row), float(height))
        for height, (layer, row) in enumerate(rows.items())
        for index, head in enumerate(row)
    }
    places["logits"] = (widest / 2, float(len(layers)))
    size = (max(4.0, _ACROSS * widest + 1), max(3.0, _UP * (len(layers) + 1) + 0.8))
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    strongest = max((abs(each.effect) for each in result.interactions), default=1.0)
    for writer, reader, part, edge in graph.edges(keys=True, data=True):
        axes.annotate(
            "",
            xy=places[reader],
            xytext=places[writer],
            arrowprops={
                "arrowstyle": "-|>",
                "color": _COLOURS[part],
                "linewidth": 0.4 + _WIDEST * abs(edge["effect"]) / strongest,
                "linestyle": "-" if edge["effect"] > 0 else "--",
                "shrinkA": 11,
                "shrinkB": 11,
                "connectionstyle": f"arc3,rad={({'q': -0.12, 'k': 0.0, 'v': 0.12}).get(part, 0.0)}",
            },
        )
    for node, (x, y) in places.items():
        name = node if isinstance(node, str) else f"{node[0]}.{node[1]}"
        axes.text(
            *(x, y, name), ha="center", va="center", fontsize=7, bbox={"boxstyle": "round", "fc": "white", "ec": "#888"}
        )
    for part, colour in _COLOURS.items():
        axes.plot([], [], color=colour, label=part)
    axes.legend(fontsize=6, loc="lower right", ncols=4, frameon=False)
    axes.set_xlim(0, widest)
    axes.set_ylim(-0.6, len(layers) + 0.5)
    axes.axis("off")
    title = f"Heads of {result.plan.model_id if result.plan else ''} and what they read"
    figure.suptitle(f"{title}; dashed: the metric gains without it", fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure
