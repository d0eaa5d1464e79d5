"""Picture of composition scores: for each kind a heat map of readers and writers, minus the score of random heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.viz import html_figure
from neuroscope.viz.head_maps import symmetric_scale

if TYPE_CHECKING:
    from neuroscope.results.composition import CompositionResult

_CELL = 0.09  # inches


def draw(result: CompositionResult, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    arrays = [result.excess(kind) for kind in "qkv"]
    layers, heads = arrays[0].shape[:2]
    side = min(12.0, max(3.2, 1.2 + _CELL * layers * heads))
    figure: Any = Figure(figsize=(3 * side, side), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, array, kind in zip(figure.subplots(1, 3), arrays, "QKV", strict=True):
        square = array.values.reshape(layers * heads, layers * heads)
        colours, least, most = symmetric_scale(square)
        image = axes.imshow(square, cmap=colours, vmin=least, vmax=most, origin="lower")
        places = np.arange(layers) * heads
        for line in places[1:]:
            axes.axvline(line - 0.5, color="#bbb", linewidth=0.4)
            axes.axhline(line - 0.5, color="#bbb", linewidth=0.4)
        names = [f"{layer}.0" for layer in array.coords["writer_layer"]]
        axes.set_xticks(places, names, fontsize=6)
        axes.set_yticks(places, names, fontsize=6)
        axes.set_xlabel("reader", fontsize=7)
        axes.set_ylabel("writer", fontsize=7)
        axes.set_title(f"{kind}-composition", fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=6)
    title = f"Composition of heads of {result.plan.model_id if result.plan else ''}, random heads subtracted"
    figure.suptitle(title, fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure
