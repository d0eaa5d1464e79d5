"""Picture of dictionary features: a row for each of the most active features, a column for each position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from neuroscope.vocabulary.token_text import shortened, visible

if TYPE_CHECKING:
    from neuroscope.dictionaries.features import FeatureActivations

_CELL_WIDTH, _CELL_HEIGHT = 0.42, 0.22  # inches
_CHARACTERS = 9


def draw(seen: FeatureActivations, path: str | Path | None = None, count: int = 24) -> Any:
    """Draws the figure; writes it to `path` if given."""
    features = seen.active()[:count]
    rows, columns = max(len(features), 1), len(seen.positions)
    size = (2.2 + _CELL_WIDTH * columns, 1.4 + _CELL_HEIGHT * rows)
    figure: Any = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = np.stack([seen.of(feature) for feature in features]) if features else np.zeros((1, columns))
    image = axes.imshow(values, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(features)), [str(feature) for feature in features], fontsize=7)
    read = [shortened(visible(seen.texts.get(token, f"#{token}")), _CHARACTERS) for token in seen.token_ids]
    axes.set_xticks(range(columns), read, fontsize=7, rotation=60, ha="right", parse_math=False)
    axes.set_xlabel("token read")
    axes.set_ylabel("feature")
    axes.set_title(f"Features of {seen.dictionary.dictionary_id}, {seen.dictionary.model_id}", fontsize=9)
    figure.colorbar(image, ax=axes, label="activation", shrink=0.8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
