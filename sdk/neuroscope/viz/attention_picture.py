"""Pictures of an attention analysis at the width of a page: the role of each head, or heat maps of chosen arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.results.labels import RANKED_ROLES
from neuroscope.viz import html_figure, page
from neuroscope.viz.head_maps import Scale, symmetric_scale

if TYPE_CHECKING:
    from neuroscope.labelled_array import LabelledArray
    from neuroscope.results.attention import AttentionResult

_COLOURS = {
    "name_mover": "#7b2d8e",
    "s_inhibition": "#c77cd6",
    "induction": "#d1495b",
    "previous_token": "#1f6fb2",
    "duplicate_token": "#ee9b00",
    "positional": "#2a9d8f",
    "copying": "#5a9e2f",
    "suppression": "#8c5a2b",
    "uniform": "#5c6670",
    "first_token_sink": "#a9b8c6",
}
_NO_ROLE = "#f4f4f2"
_PALE = 0.7
"""Share of white in the colour of a role that no test confirms."""
_MARGINS = 1.2  # inches beside the cells
_MAX_CELL = 0.3
_UNBOUNDED = ("entropy", "distance")
_ALL = "all"


def draw(
    result: AttentionResult, path: str | Path | None = None, *, statistics: str | Iterable[str] | None = None
) -> Any:
    """Draws the figure; writes it to `path` if given.

    Args:
        result: the analysis.
        path: file to write.
        statistics: names of arrays for heat maps, or `all`; None: the roles, without roles the entropy.

    Raises:
        InvalidRequestError: there is no array of that name.
    """
    plan = result.plan
    assert plan is not None
    if statistics is None and not plan.roles:
        statistics = "entropy"
    if statistics is None:
        figure, title = _roles_figure(result), f"Roles of the attention heads of {plan.model_id}"
    else:
        figure, title = _maps_figure(_chosen(result, statistics)), f"Attention heads of {plan.model_id}"
    figure.suptitle(title, fontsize=page.TITLE_POINTS, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _roles_figure(result: AttentionResult) -> Any:
    plan = result.plan
    assert plan is not None
    layers, heads = list(plan.layers), list(range(plan.head_count))
    cell = min(_MAX_CELL, (page.WIDTH - _MARGINS) / len(layers))
    best = result.best_labels
    roles = [role for role in RANKED_ROLES if role in {label.role for label in best}]
    legend_rows = -(-(len(roles) + 2) // 3)
    figure = _new_figure(1.2 + cell * len(heads) + 0.19 * legend_rows)
    axes = figure.subplots()
    image = np.full((len(heads), len(layers), 3), to_rgb(_NO_ROLE))
    marks: list[tuple[int, int]] = []
    for label in best:
        place, colour = layers.index(label.layer), np.array(to_rgb(_COLOURS[label.role]))
        is_pale = label.verdict == "unconfirmed"
        image[label.head, place] = _PALE + (1 - _PALE) * colour if is_pale else colour
        if label.is_confirmed:
            marks.append((place, label.head))
    axes.imshow(image, aspect="equal" if cell * len(heads) < page.HEIGHT - 2 else "auto", origin="lower")
    if marks:
        x, y = zip(*marks, strict=True)
        axes.scatter(x, y, s=(12 * cell) ** 2, color="black", linewidths=0)
    _layer_and_head_axes(axes, layers, heads, cell)
    axes.set_xticks(np.arange(-0.5, len(layers)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(heads)), minor=True)
    axes.grid(which="minor", color="white", linewidth=min(1.0, 3 * cell))
    axes.tick_params(which="minor", length=0)
    counts = Counter(label.role for label in best)
    confirmed = Counter(label.role for label in best if label.is_confirmed)
    tested = any(label.verdict != "not tested" for label in best)
    handles = [
        Patch(
            color=_COLOURS[role],
            label=f"{role.replace('_', ' ')}: {counts[role]}" + (f", {confirmed[role]} confirmed" if tested else ""),
        )
        for role in roles
    ]
    rest = sum(int(np.isfinite(array.values).sum()) for array in _any_map(result)) - len(best)
    handles.append(Patch(color=_NO_ROLE, label=f"no role: {rest}"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        fontsize=page.POINTS,
        frameon=False,
        handlelength=1,
        title="● confirmed by a causal test, pale: refused" if tested else "by score; not tested",
        title_fontsize=page.POINTS,
    )
    return figure


def _any_map(result: AttentionResult) -> Sequence[LabelledArray]:
    """One array over layers and heads: NaN where a layer has fewer heads."""
    array = result[f"{result.roles[0]}_score"]
    return [array]


def _maps_figure(arrays: Sequence[LabelledArray]) -> Any:
    across = min(2, len(arrays))
    down = -(-len(arrays) // across)
    layers, heads = arrays[0].shape
    width = page.WIDTH / across
    height = float(np.clip((width - _MARGINS) / layers * heads, 0.9, 3.0)) + 0.75
    figure = _new_figure(down * height + 0.4)
    grid = figure.subplots(down, across, squeeze=False).reshape(-1)
    for axes in grid[len(arrays) :]:
        axes.set_visible(False)
    for axes, array in zip(grid, arrays, strict=False):
        scale = _scale(array)
        image = axes.imshow(
            array.values.T, cmap=scale.colours, vmin=scale.least, vmax=scale.most, aspect="auto", origin="lower"
        )
        axes.set_title(array.name.replace("_", " "), fontsize=page.TITLE_POINTS)
        cell = min((width - _MARGINS) / layers, (height - 0.75) / heads)
        _layer_and_head_axes(axes, list(array.coords["layer"]), list(array.coords["head"]), cell)
        bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
        bar.ax.tick_params(labelsize=page.POINTS)
    return figure


def _chosen(result: AttentionResult, statistics: str | Iterable[str]) -> list[LabelledArray]:
    """The arrays of these names, as means over the prompts."""
    names = [statistics] if isinstance(statistics, str) else list(statistics)
    names = result.names if names == [_ALL] else names
    for name in names:
        if name not in result.names:
            close = nearest(name, result.names)
            raise InvalidRequestError(
                f"the result has no statistic {name!r}; nearest: {', '.join(close)}", field="statistics", valid=close
            )
    arrays = [result[name] for name in names]
    return [array.mean("prompt") if "prompt" in array.dims else array for array in arrays]


def _new_figure(height: float) -> Any:
    figure: Any = Figure(figsize=(page.WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _layer_and_head_axes(axes: Any, layers: Sequence[int], heads: Sequence[int], cell: float) -> None:
    """Ticks that do not overlap, for cells of so many inches."""
    step = max(1, int(np.ceil(0.2 / cell)))
    axes.set_xticks(range(0, len(layers), step), layers[::step], fontsize=page.POINTS)
    step = max(1, int(np.ceil(0.13 / cell)))
    axes.set_yticks(range(0, len(heads), step), heads[::step], fontsize=page.POINTS)
    axes.set_xlabel("layer", fontsize=page.POINTS)
    axes.set_ylabel("head", fontsize=page.POINTS)


def _scale(array: LabelledArray) -> Scale:
    if array.name == "direct_effect":
        return symmetric_scale(array.values)
    if array.name in ("copying_score", "suppression_score"):
        return Scale("RdBu_r", -1.0, 1.0)
    return Scale(most=None if array.name in _UNBOUNDED else 1.0)
