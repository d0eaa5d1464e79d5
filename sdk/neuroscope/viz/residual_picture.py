"""Picture of a residual stream analysis: heat maps, curves over layers, lenses, routes, flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.errors import InvalidRequestError
from neuroscope.viz import flow_picture, html_figure
from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.results.residual import ResidualResult

Panel: TypeAlias = "tuple[float, float, Callable[[Any], None]]"
"""Width and height in inches, and a function that draws on axes."""
_BLUE, _RED, _GREY = "#3b6fb6", "#d1495b", "#8a8a8a"
_CELL = 0.3  # inches
_LENS_CELL = 0.72
_MOST_TICKS = 48
_MOST_POSITIONS = 64
_CHARACTERS = 9


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
    figure.suptitle(title, fontsize=9, parse_math=False)
    if path is not None:
        html_figure.write(figure, path, title)
    return figure


def _contributions(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    share = result.array("share", prompt).values
    components, tokens = result.components, _tokens(result, prompt)
    size = (2 + _CELL * share.shape[1], 1.6 + 0.2 * len(components))

    def map_of_shares(axes: Any) -> None:
        _map(axes, share, components, tokens, "share of the last stream that each component writes", is_signed=True)

    yield (*size, map_of_shares)
    norm, cosine, drift = (result.array(name, prompt).values for name in ("stream_norm", "stream_cosine", "drift"))
    position = _position(result, prompt)

    def curves(axes: Any) -> None:
        points = np.arange(len(norm))
        axes.plot(points, cosine[:, position], color=_BLUE, marker="o", markersize=3, label="cosine with the last")
        axes.plot(points[1:], drift[:, position], color=_RED, marker="o", markersize=3, label="drift over a layer")
        axes.set_ylabel("cosine, drift", fontsize=7)
        beside = axes.twinx()
        beside.plot(points, norm[:, position], color=_GREY, marker="s", markersize=3, label="norm (right)")
        beside.tick_params(labelsize=6)
        handles = [*axes.get_lines(), *beside.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], fontsize=6)
        _points(axes, len(norm))
        axes.set_title(f"the stream at position {position}", fontsize=8)

    yield 6.0, 2.6, curves


def _attribution(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    direct, attribution = result.array("direct", prompt).values, result.attributions[prompt]

    def bars(axes: Any) -> None:
        colours = [_BLUE if value >= 0 else _RED for value in direct]
        axes.bar(range(len(direct)), direct, color=colours)
        axes.axhline(0, color="#444", linewidth=0.6)
        axes.set_xticks(range(len(direct)), result.components, fontsize=6, rotation=60)
        axes.tick_params(axis="y", labelsize=6)
        answer = visible(attribution.answer.text)
        other = "" if attribution.other is None else f" less that of {visible(attribution.other.text)!r}"
        axes.set_title(
            f"direct contribution to the logit of {answer!r}{other}: {attribution.sum:.2f} in all",
            fontsize=8,
            parse_math=False,
        )

    yield max(5.0, 0.28 * len(direct) + 1.5), 2.6, bars
    if "direct_head" in result.names:
        heads = result.array("direct_head", prompt).values

        def map_of_heads(axes: Any) -> None:
            layers, names = (list(map(str, range(count))) for count in heads.shape)
            _map(axes, heads, layers, names, "direct contribution of heads", is_signed=True)
            axes.set_ylabel("layer", fontsize=7)
            axes.set_xlabel("head", fontsize=7)

        yield 2.4 + _CELL * heads.shape[1], 1.4 + 0.24 * heads.shape[0], map_of_heads


def _lens(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    lenses = [lens for lens in ("lens", "tuned") if f"{lens}_kl" in result.names]
    for lens in lenses:
        probability = result.array(f"{lens}_probability", prompt).values[..., 0]
        positions = range(max(0, probability.shape[1] - _MOST_POSITIONS), probability.shape[1])
        size = (1.6 + _LENS_CELL * len(positions), 1.4 + _CELL * len(probability))
        yield (*size, partial(_lens_table, result=result, prompt=prompt, lens=lens))
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
        beside.tick_params(labelsize=6)
        handles = [*axes.get_lines(), *beside.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], fontsize=6)
        answer = visible(result.lenses[prompt].texts[result.lenses[prompt].answer_id])
        axes.set_title(f"the answer {answer!r} at position {position}", fontsize=8, parse_math=False)
        _points(axes, len(result.array("lens_kl", prompt).values))

    yield 6.0, 2.6, curves


def _lens_table(axes: Any, result: ResidualResult, prompt: int, lens: str) -> None:
    probability = result.array(f"{lens}_probability", prompt).values[:, -_MOST_POSITIONS:, 0]
    token_ids = result.array(f"{lens}_tokens", prompt).values[:, -_MOST_POSITIONS:, 0]
    texts = result.lenses[prompt].texts
    axes.imshow(probability, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), token in np.ndenumerate(token_ids):
        colour = "white" if probability[row, column] > 0.55 else "#1b1f27"
        text = shortened(visible(texts.get(int(token), f"#{int(token)}")), _CHARACTERS)
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour, parse_math=False)
    axes.set_yticks(range(len(probability)), _point_names(len(probability)), fontsize=6)
    read = _tokens(result, prompt)[-probability.shape[1] :]
    axes.set_xticks(range(len(read)), read, fontsize=6, rotation=60, ha="right", parse_math=False)
    axes.set_title(f"{'logit' if lens == 'lens' else 'tuned'} lens: the likeliest next token", fontsize=8)


def _routing(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    grid = result.array("routing", prompt)
    queries, position = list(grid.coords["query"]), _position(result, prompt)
    query = position if position in queries else queries[-1]
    values = np.nan_to_num(grid.values[:, queries.index(query)])

    def paint(axes: Any) -> None:
        layers, tokens = list(map(str, range(len(values)))), _tokens(result, prompt)
        _map(axes, values, layers, tokens, f"norm of what attention moves to position {query}", is_signed=False)
        axes.set_ylabel("layer", fontsize=7)

    yield 2 + _CELL * values.shape[1], 1.6 + 0.24 * len(values), paint


def _ablation(result: ResidualResult, prompt: int) -> Iterator[Panel]:
    attention, mlp = (result.array(f"ablated_{kind}", prompt).values for kind in ("attention", "mlp"))

    def paint(axes: Any) -> None:
        layers = np.arange(len(attention))
        axes.bar(layers - 0.2, np.nan_to_num(attention), 0.4, color=_BLUE, label="attention")
        axes.bar(layers + 0.2, np.nan_to_num(mlp), 0.4, color=_RED, label="MLP")
        axes.axhline(0, color="#444", linewidth=0.6)
        axes.set_xticks(layers, layers.tolist(), fontsize=6)
        axes.tick_params(axis="y", labelsize=6)
        axes.set_xlabel("layer", fontsize=7)
        axes.legend(fontsize=6)
        axes.set_title(f"what ablation takes of the metric, {result.metrics[prompt]:.2f}", fontsize=8)

    yield max(5.0, 1.5 + 0.4 * len(attention)), 2.4, paint


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


def _map(axes: Any, values: Any, rows: Sequence[str], columns: Sequence[str], title: str, *, is_signed: bool) -> None:
    most = float(np.nanmax(np.abs(values), initial=1e-9)) or 1.0
    colours: dict[str, Any] = {"cmap": "RdBu", "vmin": -most, "vmax": most} if is_signed else {"cmap": "viridis"}
    image = axes.imshow(values, aspect="auto", origin="lower", **colours)
    for set_ticks, names, turned in ((axes.set_yticks, rows, 0), (axes.set_xticks, columns, 60)):
        step = -(-len(names) // _MOST_TICKS)
        set_ticks(range(0, len(names), step), names[::step], fontsize=6, rotation=turned, parse_math=False)
    axes.set_title(title, fontsize=8)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=6)


def _points(axes: Any, count: int) -> None:
    step = -(-count // _MOST_TICKS)
    axes.set_xticks(range(0, count, step), _point_names(count)[::step], fontsize=6)
    axes.tick_params(axis="y", labelsize=6)


def _point_names(count: int) -> list[str]:
    return ["embed", *(f"layer {layer}" for layer in range(count - 1))]


def _tokens(result: ResidualResult, prompt: int) -> list[str]:
    return [shortened(visible(text), _CHARACTERS) for text in result.tokens[prompt]]


def _position(result: ResidualResult, prompt: int) -> int:
    assert result.plan is not None
    return result.plan.prompts[prompt].position
