"""Directions as a picture: how well each layer's tells its two sets apart, and how long it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from neuroscope.directions.directions import Directions

_COLOUR, _PALE = "#5b8def", "#c9d6f2"


def draw(found: Directions, path: str | Path | None = None) -> Any:
    """The figure; written to `path` as well, in the format of its ending. Pale bars are no better than chance."""
    figure: Any = Figure(figsize=(max(4.0, 1.6 + 0.45 * len(found)), 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    told, lengths = figure.subplots(2, 1, sharex=True)
    places = range(len(found))
    separations = [direction.separation for direction in found.values()]
    colours = [_COLOUR if separation.is_significant else _PALE for separation in separations]
    told.bar(places, [separation.accuracy for separation in separations], color=colours)
    told.axhline(0.5, color="#888888", linewidth=0.8, linestyle="--")
    told.set_ylim(0, 1.05)
    told.set_ylabel("told apart\n(cross-validated)")
    lengths.bar(places, [direction.norm for direction in found.values()], color=_COLOUR)
    lengths.set_ylabel("length")
    lengths.set_xticks(places, list(found), rotation=60, ha="right", fontsize=8)
    for axes in (told, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    provenance = found.provenance
    if provenance:
        count = f"{len(provenance['positive'])} + {len(provenance['negative'])} prompts"
        told.set_title(f"{provenance['method']}, {provenance['model_id']}, {count}", fontsize=9)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
