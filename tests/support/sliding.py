"""Which layers look back on a window only: as the models' papers and cards say it, not as mlx-lm's code does."""

from collections.abc import Mapping
from typing import Any


def window_of(config: Mapping[str, Any], layer: int) -> int | None:
    """Keys that a layer sees, its own position included; None where it sees all."""
    window = config.get("sliding_window")
    if window is None:
        return None
    if "layer_types" in config:
        return window if config["layer_types"][layer] == "sliding_attention" else None
    if config["model_type"] == "gpt_oss":  # alternating, a sliding layer first
        return window if layer % 2 == 0 else None
    return window if (layer + 1) % config["sliding_window_pattern"] else None
