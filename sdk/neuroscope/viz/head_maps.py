"""Heat maps over layers and heads, in a grid on one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.labelled_array import LabelledArray

_ACROSS = 4
_CELL = 0.26  # inches
_MOST_TICKS = 16


class Scale(NamedTuple):
    """A colour map and its range."""

    colours: str = "viridis"
    least: float | None = 0.0
    most: float | None = None


def symmetric_scale(values: Any) -> Scale:
    """A scale that is symmetric around 0."""
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return Scale("RdBu_r", -most, most)


def figure_of(count: int, layers: int, heads: int) -> tuple[Any, Sequence[Any]]:
    """A figure with axes for `count` maps."""
    across = min(_ACROSS, count)
    down = -(-count // across)
    size = (across * max(2.6, 1.2 + _CELL * heads), down * max(2.1, 1.1 + _CELL * layers) + 0.4)
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).reshape(-1)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def draw_map(figure: Any, axes: Any, array: LabelledArray, scale: Scale) -> None:
    """Draws an array over layer and head."""
    image = axes.imshow(
        array.values, cmap=scale.colours, vmin=scale.least, vmax=scale.most, aspect="auto", origin="lower"
    )
    axes.set_title(array.name.replace("_", " "), fontsize=8)
    for set_ticks, dim in ((axes.set_yticks, "layer"), (axes.set_xticks, "head")):
        names = list(array.coords[dim])
        step = -(-len(names) // _MOST_TICKS)
        set_ticks(range(0, len(names), step), names[::step], fontsize=6)
    axes.set_ylabel("layer", fontsize=7)
    axes.set_xlabel("head", fontsize=7)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=6)
