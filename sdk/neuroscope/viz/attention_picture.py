"""An analysis of attention as a picture: a heat map of layers and heads for each statistic and score, labels marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.viz import html_figure

if TYPE_CHECKING:
    from neuroscope.analysis.attention import AttentionResult
    from neuroscope.grid import Grid

_ACROSS = 4
_CELL = 0.26  # inches
_MOST_TICKS = 16
_UNBOUNDED = ("entropy", "distance")
_SCORE = "_score"


def draw(result: AttentionResult, path: str | Path | None = None) -> Any:
    """The figure; written to `path` as well, in the format of its ending."""
    arrays = [array.mean("prompt") if "prompt" in array.dims else array for array in result]
    across = min(_ACROSS, len(arrays))
    down = -(-len(arrays) // across)
    layers, heads = arrays[0].shape
    size = (across * max(2.6, 1.2 + _CELL * heads), down * max(2.1, 1.1 + _CELL * layers) + 0.4)
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).reshape(-1)
    for axes, array in zip(grid, arrays, strict=False):
        _map(figure, axes, array)
        if array.name.endswith(_SCORE):
            _mark(axes, result, array)
    for axes in grid[len(arrays) :]:
        axes.set_visible(False)
    plan = result.plan
    title = f"Attention heads of {plan.model_id}" if plan is not None else "Attention heads"
    marks = "; ● a label that a causal test confirms, ○ one that it does not" if result.labels else ""
    figure.suptitle(f"{title}{marks}", fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _map(figure: Any, axes: Any, array: Grid) -> None:
    most = None if array.name in _UNBOUNDED else 1.0
    image = axes.imshow(array.values, cmap="viridis", vmin=0.0, vmax=most, aspect="auto", origin="lower")
    axes.set_title(array.name.replace("_", " "), fontsize=8)
    for set_ticks, dim in ((axes.set_yticks, "layer"), (axes.set_xticks, "head")):
        names = list(array.coords[dim])
        step = -(-len(names) // _MOST_TICKS)
        set_ticks(range(0, len(names), step), names[::step], fontsize=6)
    axes.set_ylabel("layer", fontsize=7)
    axes.set_xlabel("head", fontsize=7)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=6)


def _mark(axes: Any, result: AttentionResult, array: Grid) -> None:
    role = array.name.removesuffix(_SCORE)
    places = {layer: index for index, layer in enumerate(array.coords["layer"])}
    for label in result.labels:
        if label.role == role:
            face = "white" if label.is_confirmed else "none"
            axes.scatter(
                np.array([label.head]), np.array([places[label.layer]]), s=14, facecolor=face, edgecolor="#d1495b"
            )
