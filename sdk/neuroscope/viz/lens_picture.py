"""Picture of the logit lens: the likeliest token of every layer and position, coloured by probability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.activations.layer_predictions import LayerPredictions

_CELL_WIDTH, _CELL_HEIGHT = 0.72, 0.3  # inches
_CHARACTERS = 9


def draw(seen: LayerPredictions, path: str | Path | None = None) -> Any:
    """Draws the figure; writes it to `path` if given."""
    rows, columns = len(seen.points), len(seen.positions)
    size = (1.6 + _CELL_WIDTH * columns, 1.2 + _CELL_HEIGHT * rows)
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    probabilities = np.exp(seen.top_log_probabilities[:, :, 0])
    image = axes.imshow(probabilities[::-1], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(seen.top_token_ids[::-1, :, 0]):
        for column, token_id in enumerate(line):
            is_dark = probabilities[rows - 1 - row, column] > 0.55
            text = _shown(seen.texts.get(int(token_id), f"#{token_id}"))
            colour = "white" if is_dark else "#1b1f27"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour, parse_math=False)
    axes.set_yticks(range(rows), [str(point) for point in seen.points][::-1], fontsize=7)
    read = [_shown(seen.texts.get(token_id, f"#{token_id}")) for token_id in seen.token_ids]
    axes.set_xticks(range(columns), read, fontsize=7, rotation=60, ha="right", parse_math=False)
    axes.set_xlabel("token read")
    axes.set_title(f"Logit lens, {seen.model_id}: the likeliest next token", fontsize=9)
    figure.colorbar(image, ax=axes, label="probability", shrink=0.8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _shown(text: str) -> str:
    return shortened(visible(text), _CHARACTERS)
