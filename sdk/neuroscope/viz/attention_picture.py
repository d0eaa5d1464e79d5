"""Picture of an attention analysis: a heat map over layers and heads for each statistic and score, with labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.viz import html_figure
from neuroscope.viz.head_maps import Scale, draw_map, figure_of, symmetric_scale

if TYPE_CHECKING:
    from neuroscope.labelled_array import LabelledArray
    from neuroscope.results.attention import AttentionResult

_UNBOUNDED = ("entropy", "distance")
_SCORE = "_score"


def draw(result: AttentionResult, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    arrays = [array.mean("prompt") if "prompt" in array.dims else array for array in result]
    figure, grid = figure_of(len(arrays), *arrays[0].shape)
    for axes, array in zip(grid, arrays, strict=True):
        draw_map(figure, axes, array, _scale(array))
        if array.name.endswith(_SCORE):
            _mark(axes, result, array)
    plan = result.plan
    title = f"Attention heads of {plan.model_id}" if plan is not None else "Attention heads"
    marks = "; ● a label that a causal test confirms, ○ one that it does not" if result.labels else ""
    figure.suptitle(f"{title}{marks}", fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _scale(array: LabelledArray) -> Scale:
    if array.name == "direct_effect":
        return symmetric_scale(array.values)
    return Scale(most=None if array.name in _UNBOUNDED else 1.0)


def _mark(axes: Any, result: AttentionResult, array: LabelledArray) -> None:
    role = array.name.removesuffix(_SCORE)
    places = {layer: index for index, layer in enumerate(array.coords["layer"])}
    for label in result.labels:
        if label.role == role:
            face = "white" if label.is_confirmed else "none"
            axes.scatter(
                np.array([label.head]), np.array([places[label.layer]]), s=14, facecolor=face, edgecolor="#d1495b"
            )
