"""Picture of a generation: logit lens, emergence of the answer, norms of the residual stream, attention.

    draw(CapturedGeneration(cache, tokens, vocabulary, prompt_length=12, title="...", lens=lens), "capture.png")

The last layer, which is the model's own prediction, is always shown, and repeated tokens keep their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.lens import LogitLens
from neuroscope.vocabulary.token_text import shortened, visible

MAX_POSITIONS = 26
"""The most positions to draw; the last ones are drawn."""
MAX_LAYERS = 12
"""The most layers to draw; they are evenly spaced and include the last."""
_DOTS_PER_INCH = 150
_INK, _MUTED, _GRID = "#1b1f27", "#6b7380", "#e3e6eb"
_RESIDUAL, _MLP, _ANSWER = "#5b6cf0", "#e8930c", "#0fa394"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.parse_math": False,
}
# Inches.
_LEFT, _RIGHT, _HEADER, _FOOTER = 0.85, 0.3, 0.95, 0.45
_LENS_ROW, _LENS_TOP, _LENS_BOTTOM = 0.34, 0.95, 0.85
_LINES_TOP, _LINES, _LINES_BOTTOM = 0.45, 1.55, 0.75
_PATTERN_TOP, _PATTERN_BOTTOM, _GAP = 0.35, 0.55, 0.55

Axes: TypeAlias = Any  # matplotlib's stubs leave the keywords of nearly every method unknown
Figure: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class CapturedGeneration:
    """The content of the picture."""

    cache: ActivationCache
    """Has resid_post, mlp_out and attention_pattern of all layers, for one row."""
    tokens: Sequence[str]
    """Text of the token at every captured position, and of the last generated token."""
    vocabulary: Sequence[str]
    """Text of every token id."""
    prompt_length: int
    """Number of positions of the prompt."""
    title: str
    subtitle: str = ""
    lens: LogitLens | None = None
    """The lens; None to omit it."""

    @property
    def positions(self) -> range:
        """The drawn positions."""
        count = len(self.tokens) - 1
        return range(max(0, count - MAX_POSITIONS), count)

    def layers(self) -> list[int]:
        """The drawn layers."""
        count = len(self.cache.stack("resid_post"))
        step = max(1.0, (count - 1) / (MAX_LAYERS - 1))
        return sorted({count - 1 - round(index * step) for index in range(min(count, MAX_LAYERS))})


class _Page:
    """Places axes and texts on a figure from the top down, in inches."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure = figure
        self.width, self.height = width, height
        self.cursor = 0.0  # inches from the top

    def axes(self, left: float, width: float, height: float) -> Axes:
        """Axes whose upper edge is at the cursor."""
        bottom = self.height - self.cursor - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, text: str, **style: Any) -> float:
        """Text whose upper edge is at the cursor; returns its right edge."""
        drawn = self.figure.text(left / self.width, 1 - self.cursor / self.height, text, ha="left", va="top", **style)
        return drawn.get_window_extent(self.figure.canvas.get_renderer()).x1 / self.figure.dpi


def draw(captured: CapturedGeneration, path: str | Path) -> None:
    """Writes the picture; the suffix selects the format, such as .png or .svg."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = captured.layers()
    width = max(11.0, _LEFT + _RIGHT + 0.54 * len(captured.positions))
    columns = min(len(layers), 6)
    side = min(2.4, (width - _LEFT - _RIGHT + _GAP) / columns - _GAP)
    pattern_rows = -(-len(layers) // columns)
    lens_height = _LENS_ROW * len(layers)
    height = _HEADER + _LINES_TOP + _LINES + _LINES_BOTTOM + _FOOTER
    height += pattern_rows * (_PATTERN_TOP + side + _PATTERN_BOTTOM)
    if captured.lens is not None:
        height += _LENS_TOP + lens_height + _LENS_BOTTOM
    matplotlib: Any = mpl
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        page = _Page(figure, width, height)
        page.cursor = 0.22
        page.text(0.3, shortened(_clean(captured.title), 110), fontsize=14, fontweight="bold")
        page.cursor = 0.56
        page.text(0.3, captured.subtitle, color=_MUTED)
        page.cursor = _HEADER
        if captured.lens is not None:
            _heading(
                page,
                "Logit lens: what each layer would say next",
                "below: the token read · above: the one that followed · colour: probability, 0 to 1 · bold: right",
            )
            page.cursor += _LENS_TOP
            _draw_lens(page.axes(_LEFT, width - _LEFT - _RIGHT, lens_height), captured, captured.lens, layers)
            page.cursor += lens_height + _LENS_BOTTOM
        half = (width - _LEFT - _RIGHT - 2 * _GAP) / 2 if captured.lens is not None else width - _LEFT - _RIGHT
        if captured.lens is not None:
            left = _LEFT + half + 2 * _GAP
            _heading(page, "How the answer emerges", "probability of the tokens that followed", left)
        _heading(page, "Norms", "median, least and greatest over positions")
        page.cursor += _LINES_TOP
        _draw_norms(page.axes(_LEFT, half, _LINES), captured)
        if captured.lens is not None:
            _draw_emergence(page.axes(_LEFT + half + 2 * _GAP, half, _LINES), captured, captured.lens)
        page.cursor += _LINES + _LINES_BOTTOM
        for index, layer in enumerate(layers):
            row, column = divmod(index, columns)
            if column == 0:
                page.cursor += _PATTERN_TOP + (side + _PATTERN_BOTTOM if row else 0)
            _draw_attention(page.axes(_LEFT + column * (side + _GAP), side, side), captured, layer)
        page.cursor += side + _PATTERN_BOTTOM
        page.text(
            0.3, "Attention: of each layer the head that looks most at other places than itself and the first token;"
            " rows are queries, columns keys.", color=_MUTED, fontsize=8,
        )  # fmt: skip
        page.figure.savefig(Path(path), dpi=_DOTS_PER_INCH)


def most_focused_head(pattern: NDArray[np.float32]) -> int:
    """The head of a pattern (head, query, key) that attends most to tokens other than itself and the first."""
    queries = range(pattern.shape[1])
    elsewhere = pattern.sum(axis=2) - pattern[:, queries, queries] - pattern[:, :, 0]
    return int(elsewhere[:, 1:].mean(axis=1).argmax()) if pattern.shape[1] > 1 else 0


def _heading(page: _Page, title: str, note: str, left: float = 0.3) -> None:
    right = page.text(left, title, fontsize=10.5, fontweight="bold")
    page.text(right + 0.15, note, color=_MUTED, fontsize=8.5)


def _draw_lens(axes: Axes, captured: CapturedGeneration, lens: LogitLens, layers: list[int]) -> None:
    """Layers by positions; a cell shows the layer's prediction."""
    positions = captured.positions
    residual = captured.cache.stack("resid_post")[layers, 0][:, positions]  # (layer, position, d_model)
    predictions = lens.predictions(residual)
    probabilities = predictions.probabilities
    axes.imshow(probabilities, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
    for row in range(len(layers)):
        for column, position in enumerate(positions):
            word = captured.vocabulary[int(predictions.token_ids[row, column])]
            weight = "bold" if word == captured.tokens[position + 1] else "normal"
            colour = "#111111" if probabilities[row, column] > 0.6 else "white"
            style = {"fontsize": 7, "fontweight": weight, "color": colour}
            axes.text(column, row, shortened(visible(word), 8), ha="center", va="center", **style)
    axes.set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    columns = range(len(positions))
    axes.set_xticks(columns, [_tick(captured, p) for p in positions], rotation=40, ha="right", rotation_mode="anchor")
    following = axes.secondary_xaxis("top")
    names = [_tick(captured, p + 1) for p in positions]
    following.set_xticks(columns, names, rotation=40, ha="left", rotation_mode="anchor")
    edge = captured.prompt_length - positions.start - 0.5
    if 0 < edge < len(positions):
        axes.axvline(edge, color="white", linewidth=2.6)
        axes.axvline(edge, color=_INK, linewidth=1.2, linestyle=(0, (3, 2)))
    _bare(axes, following)


def _draw_norms(axes: Axes, captured: CapturedGeneration) -> None:
    """Median and range of the norms over positions, by layer."""
    for component, colour, name in (("resid_post", _RESIDUAL, "residual stream"), ("mlp_out", _MLP, "MLP output")):
        norms = np.linalg.norm(captured.cache.stack(component)[:, 0].astype(np.float32), axis=-1)  # (layer, position)
        layers = range(len(norms))
        axes.fill_between(layers, norms.min(axis=1), norms.max(axis=1), color=colour, alpha=0.13, linewidth=0)
        axes.plot(layers, np.median(norms, axis=1), color=colour, marker="o", markersize=4, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    _by_layer(axes, captured)


def _draw_emergence(axes: Axes, captured: CapturedGeneration, lens: LogitLens) -> None:
    """The probability of each generated token by the lens of each layer."""
    residual = captured.cache.stack("resid_post")[:, 0, captured.prompt_length - 1 :]  # (layer, step, d_model)
    chosen = np.asarray(captured.cache.token_ids[0][captured.prompt_length :])[: residual.shape[1]]
    logs = lens.log_probabilities(residual)
    probabilities = np.exp(np.take_along_axis(logs, chosen[None, :, None], axis=-1)[..., 0])  # (layer, step)
    axes.plot(range(len(probabilities)), probabilities, color=_ANSWER, alpha=0.25, linewidth=1)
    axes.plot(range(len(probabilities)), np.median(probabilities, axis=1), color=_ANSWER, marker="o", markersize=4)
    axes.set_ylim(-0.03, 1.03)
    _by_layer(axes, captured)


def _draw_attention(axes: Axes, captured: CapturedGeneration, layer: int) -> None:
    """The pattern of the most focused head of a layer, queries by keys."""
    positions = captured.positions
    pattern = captured.cache["attention_pattern", layer][0].astype(np.float32)[:, positions][:, :, positions]
    head = most_focused_head(pattern)
    future = np.triu(np.ones(pattern.shape[1:], bool), k=1)
    axes.imshow(np.ma.array(pattern[head], mask=future), cmap="PuBu", vmin=0, vmax=1, aspect="equal")
    ticks = range(0, len(positions), max(1, -(-len(positions) // 13)))
    names = [_tick(captured, positions[tick], 7) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    axes.set_yticks(ticks, names, fontsize=6)
    axes.set_title(f"layer {layer}, head {head}", fontsize=9, fontweight="bold", loc="left")
    _bare(axes)


def _by_layer(axes: Axes, captured: CapturedGeneration) -> None:
    axes.set_xticks(captured.layers())
    axes.set_xlabel("layer")
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bare(*axes: Axes) -> None:
    for each in axes:
        each.tick_params(length=0)
        for spine in each.spines.values():
            spine.set_visible(False)


def _tick(captured: CapturedGeneration, position: int, width: int = 9) -> str:
    return shortened(visible(captured.tokens[position]), width)


def _clean(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
