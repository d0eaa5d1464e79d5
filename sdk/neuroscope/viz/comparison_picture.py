"""Picture of an attention comparison: heat maps of the divergences and of the changes of statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.results.comparison import DIVERGENCES
from neuroscope.viz import html_figure
from neuroscope.viz.head_maps import Scale, draw_map, figure_of, symmetric_scale

if TYPE_CHECKING:
    from neuroscope.results.comparison import AttentionComparison

_MOST = {"jensen_shannon": math.log(2), "total_variation": 1.0}


def draw(result: AttentionComparison, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    divergences = [result[name] for name in DIVERGENCES]
    differences = [result.difference(name) for name in result.names if name not in DIVERGENCES]
    figure, grid = figure_of(len(divergences) + len(differences), *divergences[0].shape)
    for axes, array in zip(grid, [*divergences, *differences], strict=True):
        scale = Scale(most=_MOST[array.name]) if array.name in _MOST else symmetric_scale(array.values)
        draw_map(figure, axes, array, scale)
    title = f"Attention heads of {result.plan.model_id if result.plan else ''} on two prompts"
    figure.suptitle(f"{title}; differences are those of the second from the first", fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure
