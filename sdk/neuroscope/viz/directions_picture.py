"""Picture of directions: accuracy and norm of the direction at each layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from neuroscope.directions.directions import Directions

_COLOUR, _PALE = "#5b8def", "#c9d6f2"


def draw(found: Directions, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given. Pale bars are not significant."""
    figure: Any = Figure(figsize=(max(4.0, 1.6 + 0.45 * len(found)), 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    accuracies, lengths = figure.subplots(2, 1, sharex=True)
    places = range(len(found))
    separations = [direction.separation for direction in found.values()]
    colours = [_COLOUR if separation.is_significant else _PALE for separation in separations]
    accuracies.bar(places, [separation.accuracy for separation in separations], color=colours)
    accuracies.axhline(0.5, color="#888888", linewidth=0.8, linestyle="--")
    accuracies.set_ylim(0, 1.05)
    accuracies.set_ylabel("accuracy\n(cross-validated)")
    lengths.bar(places, [direction.norm for direction in found.values()], color=_COLOUR)
    lengths.set_ylabel("length")
    lengths.set_xticks(places, list(found), rotation=60, ha="right", fontsize=8)
    for axes in (accuracies, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    provenance = found.provenance
    if provenance:
        count = f"{len(provenance['positive'])} + {len(provenance['negative'])} prompts"
        accuracies.set_title(f"{provenance['method']}, {provenance['model_id']}, {count}", fontsize=9)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
