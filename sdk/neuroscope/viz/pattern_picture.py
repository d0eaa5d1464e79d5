"""Picture of attention patterns: a square for each chosen head, queries by keys.

cache = client.capture(prompt, ["attention_pattern"])
pattern_picture.draw(cache, [(2, 6), (3, 6)], tokens=client.tokenize(prompt).tokens, path="patterns.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.errors import InvalidRequestError
from neuroscope.viz import html_figure
from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.activations.cache import ActivationCache

_ACROSS = 3
_CELL = 0.19  # inches
_CHARACTERS = 10


def draw(
    cache: ActivationCache,
    heads: Sequence[tuple[int, int]],
    *,
    tokens: Sequence[str],
    row: int = 0,
    path: str | Path | None = None,
) -> Any:
    """Draws a matplotlib figure; writes it to `path` if given: .png, .svg, .pdf or .html.

    Args:
        cache: has the attention_pattern of the heads' layers, for whole prompts.
        heads: layer and head of each pattern.
        tokens: texts of the prompt's tokens.
        row: row of the cache.
        path: file to write.

    Raises:
        InvalidRequestError: no heads are given, a layer has no such head, or the tokens do not match the prompt.
    """
    if not heads:
        raise InvalidRequestError("name a head at least, such as (2, 6)", field="heads")
    patterns = [_pattern(cache, layer, head, row) for layer, head in heads]
    if any(pattern.shape != (len(tokens), len(tokens)) for pattern in patterns):
        raise InvalidRequestError(
            f"there are {len(tokens)} tokens for patterns of {' x '.join(map(str, patterns[0].shape))}", field="tokens"
        )
    across = min(_ACROSS, len(heads))
    down = -(-len(heads) // across)
    side = 1.3 + _CELL * len(tokens)
    figure: Any = Figure(figsize=(across * side, down * (side + 0.2)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).reshape(-1)
    names = [shortened(visible(token), _CHARACTERS) for token in tokens]
    for axes, pattern, (layer, head) in zip(grid, patterns, heads, strict=False):
        axes.imshow(pattern, cmap="viridis", vmin=0.0, vmax=1.0)
        axes.set_xticks(range(len(names)), names, fontsize=6, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=6, parse_math=False)
        axes.set_title(f"head {layer}.{head}", fontsize=8)
    for axes in grid[len(heads) :]:
        axes.set_visible(False)
    if path is not None:
        html_figure.write(figure, path, "Attention patterns")
    return figure


def _pattern(cache: ActivationCache, layer: int, head: int, row: int) -> Any:
    weights = np.asarray(cache["attention_pattern", layer][row], np.float32)
    if not 0 <= head < len(weights):
        raise InvalidRequestError(f"layer {layer} has {len(weights)} heads, and no head {head}", field="heads")
    return weights[head]
