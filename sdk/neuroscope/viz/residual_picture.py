"""Pictures of a residual stream analysis at the width of a page: heat maps, curves over layers, lenses, routes, flow.

At some positions, mostly the first one, trained models write massive activations (Sun et al. 2024, arXiv:2402.17762)
that would bleach every other cell: heat maps set them apart, and their colours are scaled by the other positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.errors import InvalidRequestError
from neuroscope.viz import flow_picture, html_figure, page
from neuroscope.viz.page import tick_step
from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.results.residual import ResidualResult

Panel: TypeAlias = "tuple[float, float, Callable[[Any], None]]"
"""Width and height in inches, and a function that draws on axes."""
_BLUE, _RED, _GREY = "#3b6fb6", "#d1495b", "#8a8a8a"
_MARGIN = 1.5
"""Inches of a page beside the cells of a heat map."""
_TALLEST = 7.0
"""Inches of the cells of a heat map."""
_LENS_CELL = (0.54, 0.14)
"""Inches of a token in the table of a lens."""
_CHARACTERS, _LENS_CHARACTERS = 9, 7
_MASSIVE = 10.0
"""A position whose stream has so many times the median norm, at any layer, holds massive activations."""
_ROBUST_PERCENT = 99.0


def draw(result: ResidualResult, path: str | Path | None, *, part: str | None, prompt: int) -> Any:
    """Draws the figure; writes it to `path` if given.

    Raises:
        InvalidRequestError: the result has no such part.
    """
    wanted = result.parts if part is None else [part]
    if part is not None and part not in result.parts:
        raise InvalidRequestError(f"the result has no part {part!r}", field="part", valid=result.parts)
    panels = [panel for name in wanted for panel in _PANELS[name](result, prompt)]
    figure: Any = Figure(
        figsize=(max(width for width, _, _ in panels), sum(height for _, height, _ in panels) + 0.4),
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[height for _, height, _ in panels])
    for axes, (_, _, paint) in zip(grid.reshape(-1), panels, strict=True):
        paint(axes)
    plan = result.plan
    title = f"Residual stream of {plan.model_id}" if plan is not None else "Residual stream"
    figure.suptitle(title, fontsize=page.TITLE_POINTS, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def massive_positions(norms: Any) -> list[int]:
    """Positions with massive activations, by the norms of the stream (point, position)."""
    usual = np.median(norms, axis=1, keepdims=True)
    return np.flatnonzero((norms > _MASSIVE * np.maximum(usual, 1e-12)).any(axis=0)).tolist()


def _contributions(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    share = result.array("share", prompt).values
    components, tokens = result.components, _tokens(result, prompt)
    norm, cosine, drift = (result.array(name, prompt).values for name in ("stream_norm", "stream_cosine", "drift"))
    massive = massive_positions(norm)

    def map_of_shares(axes: Any) -> None:
        title = "share of the last stream that each component writes"
        _map(axes, share, components, tokens, title, is_signed=True, massive=massive)

    yield page.WIDTH, _map_height(len(components)), map_of_shares
    position = _position(result, prompt)

    def curves(axes: Any) -> None:
        points = np.arange(len(norm))
        axes.tick_params(axis="y", labelsize=page.POINTS)
        axes.plot(points, cosine[:, position], color=_BLUE, marker="o", markersize=3, label="cosine with the last")
        axes.plot(points[1:], drift[:, position], color=_RED, marker="o", markersize=3, label="drift over a layer")
        axes.set_ylabel("cosine, drift", fontsize=page.POINTS)
        beside = axes.twinx()
        beside.plot(points, norm[:, position], color=_GREY, marker="s", markersize=3, label="norm (right)")
        beside.tick_params(labelsize=page.POINTS)
        handles = [*axes.get_lines(), *beside.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], fontsize=page.POINTS)
        _points(axes, len(norm))
        axes.set_title(f"the stream at position {position}", fontsize=page.TITLE_POINTS)

    yield page.WIDTH, 2.4, curves


def _attribution(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    direct, attribution = result.array("direct", prompt).values, result.attributions[prompt]

    def bars(axes: Any) -> None:
        colours = [_BLUE if value >= 0 else _RED for value in direct]
        axes.bar(range(len(direct)), direct, color=colours)
        axes.axhline(0, color="#444", linewidth=0.6)
        step = tick_step(len(direct), page.WIDTH - 1)
        axes.set_xticks(range(0, len(direct), step), result.components[::step], fontsize=page.POINTS, rotation=90)
        axes.margins(x=0.01)
        axes.tick_params(axis="y", labelsize=page.POINTS)
        answer = visible(attribution.answer.text)
        other = "" if attribution.other is None else f" less that of {visible(attribution.other.text)!r}"
        axes.set_title(
            f"direct contribution to the logit of {answer!r}{other}: {attribution.sum:.2f} in all",
            fontsize=page.TITLE_POINTS,
            parse_math=False,
        )

    yield page.WIDTH, 2.4, bars
    if "direct_head" in result.names:
        heads = result.array("direct_head", prompt).values

        def map_of_heads(axes: Any) -> None:
            layers, names = (list(map(str, range(count))) for count in heads.shape)
            _map(axes, heads.T, names, layers, "direct contribution of heads", is_signed=True, turned=0)
            axes.set_ylabel("head", fontsize=page.POINTS)
            axes.set_xlabel("layer", fontsize=page.POINTS)

        yield page.WIDTH, _map_height(heads.shape[1], with_tokens=False), map_of_heads


def _lens(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    lenses = [lens for lens in ("lens", "tuned") if f"{lens}_kl" in result.names]
    for lens in lenses:
        points = result.array(f"{lens}_kl", prompt).values.shape[0]
        rows = -(-points // _lens_step(points))
        yield page.WIDTH, 1.3 + _LENS_CELL[1] * rows, partial(_lens_table, result=result, prompt=prompt, lens=lens)
    position = _position(result, prompt)

    def curves(axes: Any) -> None:
        beside = axes.twinx()
        for lens, style in zip(lenses, ("-", "--"), strict=False):
            name = "logit lens" if lens == "lens" else "tuned lens"
            seen = result.array(f"{lens}_answer_probability", prompt).values[:, position]
            divergence = result.array(f"{lens}_kl", prompt).values[:, position]
            axes.plot(seen, style, color=_BLUE, marker="o", markersize=3, label=f"probability, {name}")
            beside.plot(divergence, style, color=_RED, marker="o", markersize=3, label=f"KL, {name} (right)")
        axes.set_ylim(-0.03, 1.03)
        beside.tick_params(labelsize=page.POINTS)
        handles = [*axes.get_lines(), *beside.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], fontsize=page.POINTS)
        answer = visible(result.lenses[prompt].texts[result.lenses[prompt].answer_id])
        axes.set_title(f"the answer {answer!r} at position {position}", fontsize=page.TITLE_POINTS, parse_math=False)
        _points(axes, len(result.array("lens_kl", prompt).values))

    yield page.WIDTH, 2.4, curves


def _lens_step(points: int) -> int:
    """Every which point is a row of a lens table."""
    return -(-points // int(_TALLEST / _LENS_CELL[1]))


def _lens_table(axes: Any, result: ResidualResult, prompt: int, lens: str) -> None:
    """The likeliest tokens at the last positions, as many as a page is wide; the last point is always a row."""
    columns = int((page.WIDTH - 1) / _LENS_CELL[0])
    everything = result.array(f"{lens}_probability", prompt).values[..., 0]
    points, count = everything.shape
    step = _lens_step(points)
    rows = list(range(points - 1, -1, -step))[::-1]
    probability = everything[rows, -columns:]
    token_ids = result.array(f"{lens}_tokens", prompt).values[rows, -columns:, 0]
    texts = result.lenses[prompt].texts
    axes.imshow(probability, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), token in np.ndenumerate(token_ids):
        colour = "white" if probability[row, column] > 0.55 else "#1b1f27"
        text = shortened(visible(texts.get(int(token), f"#{int(token)}")), _LENS_CHARACTERS)
        axes.text(column, row, text, ha="center", va="center", fontsize=page.POINTS, color=colour, parse_math=False)
    names = _point_names(points)
    axes.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=page.POINTS)
    read = _tokens(result, prompt)[-columns:]
    axes.set_xticks(range(len(read)), read, fontsize=page.POINTS, rotation=90, parse_math=False)
    shown = "" if count <= columns else f", last {columns} of {count} positions"
    shown += "" if step == 1 else f", every {step} layers"
    name = "logit" if lens == "lens" else "tuned"
    axes.set_title(f"{name} lens: the likeliest next token{shown}", fontsize=page.TITLE_POINTS)


def _routing(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    grid = result.array("routing", prompt)
    queries, position = list(grid.coords["query"]), _position(result, prompt)
    query = position if position in queries else queries[-1]
    values = np.nan_to_num(grid.values[:, queries.index(query)])

    def paint(axes: Any) -> None:
        layers, tokens = list(map(str, range(len(values)))), _tokens(result, prompt)
        title = f"norm of what attention moves to position {query}"
        _map(axes, values, layers, tokens, title, is_signed=False, massive=_largest_key(values))
        axes.set_ylabel("layer", fontsize=page.POINTS)

    yield page.WIDTH, _map_height(len(values)), paint


def _ablation(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    attention, mlp = (result.array(f"ablated_{kind}", prompt).values for kind in ("attention", "mlp"))

    def paint(axes: Any) -> None:
        layers = np.arange(len(attention))
        axes.bar(layers - 0.2, np.nan_to_num(attention), 0.4, color=_BLUE, label="attention")
        axes.bar(layers + 0.2, np.nan_to_num(mlp), 0.4, color=_RED, label="MLP")
        axes.axhline(0, color="#444", linewidth=0.6)
        step = tick_step(len(layers), page.WIDTH - 1)
        axes.set_xticks(layers[::step], layers[::step].tolist(), fontsize=page.POINTS)
        axes.tick_params(axis="y", labelsize=page.POINTS)
        axes.set_xlabel("layer", fontsize=page.POINTS)
        axes.legend(fontsize=page.POINTS)
        axes.set_title(f"what ablation takes of the metric, {result.metrics[prompt]:.2f}", fontsize=page.TITLE_POINTS)

    yield page.WIDTH, 2.2, paint


def _flow(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    flow = result.flows[prompt]
    yield (*flow_picture.size(flow), partial(flow_picture.draw_on, flow=flow))


_PANELS: dict[str, Callable[[Any, int], Iterator[Panel]]] = {
    "contributions": _contributions,
    "attribution": _attribution,
    "lens": _lens,
    "routing": _routing,
    "ablation": _ablation,
    "flow": _flow,
}


def _map_height(rows: int, *, with_tokens: bool = True) -> float:
    """Inches of a heat map with its labels."""
    return min(_TALLEST, max(1.0, 0.13 * rows)) + (1.1 if with_tokens else 0.7)


def _map(
    axes: Any,
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    is_signed: bool,
    massive: Sequence[int] = (),
    turned: int = 90,
) -> None:
    """A heat map. Colours are scaled by what is usual, without the columns of massive activations, which are grey."""
    massive = [] if len(massive) == len(columns) else list(massive)
    usual = np.delete(values, massive, axis=1)
    magnitudes = np.abs(usual[np.isfinite(usual)])
    largest = float(magnitudes.max(initial=0.0))
    most = float(np.percentile(magnitudes, _ROBUST_PERCENT)) if magnitudes.size else 0.0
    most = (most if most > largest / 20 else largest) or 1.0
    colours: dict[str, Any] = {"cmap": "RdBu", "vmin": -most, "vmax": most}
    if not is_signed:
        colours = {"cmap": "viridis", "vmin": 0.0, "vmax": most}
    image = axes.imshow(np.ma.array(values, mask=_columns(values, massive)), aspect="auto", origin="lower", **colours)
    if massive:
        apart = np.ma.array(np.abs(values), mask=~_columns(values, massive))
        axes.imshow(apart, aspect="auto", origin="lower", cmap="Greys", vmin=0, vmax=float(np.nanmax(np.abs(values))))
        for position in massive:
            axes.axvline(position - 0.5, color="#222", linewidth=0.6)
            axes.axvline(position + 0.5, color="#222", linewidth=0.6)
        named = ", ".join(f"{position} {columns[position]!r}" for position in massive[:4])
        more = f" and {len(massive) - 4} more" if len(massive) > 4 else ""
        reach = float(np.nanmax(np.abs(values[:, massive])))
        title += f"\nmassive activations at position {named}{more}: in grey, up to {reach:.3g}, off the scale"
    height = min(_TALLEST, max(1.0, 0.13 * len(rows)))
    for set_ticks, names, rotation, extent in (
        (axes.set_yticks, rows, 0, height),
        (axes.set_xticks, columns, turned, page.WIDTH - _MARGIN),
    ):
        step = tick_step(len(names), extent)
        set_ticks(range(0, len(names), step), names[::step], fontsize=page.POINTS, rotation=rotation, parse_math=False)
    axes.set_title(title, fontsize=page.TITLE_POINTS, parse_math=False)
    extend = "neither" if largest <= most else "both" if is_signed else "max"
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01, extend=extend)
    bar.ax.tick_params(labelsize=page.POINTS)


def _columns(values: Any, chosen: Sequence[int]) -> Any:
    """Where an array has these columns."""
    found = np.zeros(np.shape(values), np.bool_)
    found[:, list(chosen)] = True
    return found


def _largest_key(values: Any) -> list[int]:
    """The position that attention moves most from, where that is massive beside the others."""
    most = np.nanmax(values, axis=0)
    return np.flatnonzero(most > _MASSIVE * max(float(np.median(most)), 1e-12)).tolist()


def _points(axes: Any, count: int) -> None:
    step = tick_step(count, page.WIDTH - 1, inches=0.6)
    axes.set_xticks(range(0, count, step), _point_names(count)[::step], fontsize=page.POINTS)
    axes.tick_params(axis="y", labelsize=page.POINTS)


def _point_names(count: int) -> list[str]:
    return ["embed", *(f"layer {layer}" for layer in range(count - 1))]


def _tokens(result: ResidualResult, prompt: int) -> list[str]:
    return [shortened(visible(text), _CHARACTERS) for text in result.tokens[prompt]]


def _position(result: ResidualResult, prompt: int) -> int:
    assert result.plan is not None
    return result.plan.prompts[prompt].position
