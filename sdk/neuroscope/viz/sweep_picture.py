"""Picture of scores: bars for one axis, a heat map for two, a heat map for each coordinate of a third."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.experiments.scores import Scores

_CELL = 0.34  # inches
_MOST_TICKS = 40
_MOST_MAPS = 16
_CHARACTERS = 12


def draw(scores: Scores, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given.

    Raises:
        InvalidRequestError: the scores have too many axes or maps for a picture.
    """
    if "pair" in scores.dims:
        scores = scores.mean("pair")
    if scores.values.ndim > 3 or (scores.values.ndim == 3 and scores.shape[0] > _MOST_MAPS):
        raise InvalidRequestError(
            f"{scores!r} has more axes than a picture shows: choose with sel() or mean()", field="plot"
        )
    figure = _line(scores) if scores.values.ndim < 2 else _maps(scores)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _line(scores: Scores) -> Any:
    figure: Any = Figure(figsize=(7, 3.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = np.atleast_1d(scores.values)
    axes.bar(range(len(values)), values, color="#3b6fb6")
    axes.axhline(_unedited(scores), color="#888", linewidth=0.8, linestyle="--", label="without the edit")
    axes.set_ylabel(scores.metric.replace("_", " "), fontsize=8)
    if scores.dims:
        _ticks(axes.set_xticks, scores, scores.dims[0], rotation=60)
        axes.set_xlabel(scores.dims[0])
    axes.set_title(_title(scores), fontsize=9)
    axes.legend(fontsize=7)
    return figure


def _maps(scores: Scores) -> Any:
    stack = scores.values if scores.values.ndim == 3 else scores.values[None]
    rows, columns = scores.dims[-2:]
    count = len(stack)
    across = min(count, 4)
    down = -(-count // across)
    size = (max(4.5, 1.8 + _CELL * stack.shape[2]) * across, max(2.4, 1.3 + _CELL * stack.shape[1]) * down)
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid: Sequence[Any] = figure.subplots(down, across, squeeze=False).reshape(-1)
    middle = _unedited(scores)
    spread = float(np.nanmax(np.abs(stack - middle))) or 1.0
    norm = TwoSlopeNorm(middle, middle - spread, middle + spread)
    image: Any = None
    for index, axes in enumerate(grid):
        if index >= count:
            axes.set_visible(False)
            continue
        image = axes.imshow(stack[index], cmap="RdBu", norm=norm, aspect="auto", origin="lower")
        _ticks(axes.set_yticks, scores, rows)
        _ticks(axes.set_xticks, scores, columns, rotation=60)
        axes.set_ylabel(rows)
        axes.set_xlabel(columns)
        if count > 1:
            axes.set_title(f"{scores.dims[0]} {scores.coords[scores.dims[0]][index]}", fontsize=8)
    figure.suptitle(_title(scores), fontsize=9)
    bar = figure.colorbar(image, ax=list(grid[:count]), shrink=0.8)
    bar.set_label(scores.metric.replace("_", " "), fontsize=8)
    return figure


def _ticks(set_ticks: Any, scores: Scores, dim: str, rotation: int = 0) -> None:
    names = [_tick(dim, entry, scores) for entry in scores.coords[dim]]
    step = -(-len(names) // _MOST_TICKS)
    has_text = any(not name.lstrip("-").isdigit() for name in names)
    how: dict[str, Any] = {"rotation": rotation, "ha": "right"} if rotation and has_text else {}
    set_ticks(range(0, len(names), step), names[::step], fontsize=7, parse_math=False, **how)


def _tick(dim: str, entry: int | str, scores: Scores) -> str:
    if isinstance(entry, int) and dim == "position" and -len(scores.tokens) <= entry < len(scores.tokens):
        text: str = scores.tokens[entry]
        return f"{shortened(visible(text), _CHARACTERS)} {entry}"
    return shortened(str(entry), 2 * _CHARACTERS)


def _unedited(scores: Scores) -> float:
    return float(np.mean(scores.unedited))


def _title(scores: Scores) -> str:
    if scores.is_change:
        scale = ", as a share of the runs' difference" if scores.is_normalised else ""
        return f"{scores.name}: change of {scores.metric.replace('_', ' ')} by the gradient{scale}"
    scale = "\n0: as the corrupted run, 1: as the clean one" if scores.is_normalised else ""
    return f"{scores.name}: {scores.metric.replace('_', ' ')} of edited runs{scale}"
