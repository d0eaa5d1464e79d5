"""neuroscope.viz.capture_picture draws every shape that a demo may give it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope.activations.lens import LogitLens
from neuroscope.viz.capture_picture import MAX_LAYERS, CapturedGeneration, draw, most_focused_head

VOCABULARY = [" the", "Paris", "$x^2$", "\n", "東", "\x1b", "averyverylongtoken", ""]


class Cache:
    """Random activations of one row."""

    def __init__(self, layers: int, positions: int, prompt: int) -> None:
        generator = np.random.default_rng(0)
        self.residual = generator.normal(size=(layers, 1, positions, 6)).astype(np.float32)
        self.token_ids = [list(generator.integers(0, len(VOCABULARY), positions + 1))]
        scores = np.tril(generator.random((1, 3, positions, positions)) + 0.1).astype(np.float32)
        self.pattern = scores / scores.sum(-1, keepdims=True)

    def stack(self, name: str) -> np.ndarray:
        return self.residual * (0.2 if name == "mlp_out" else 1.0)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.pattern


@pytest.mark.parametrize(
    ("layers", "positions", "prompt", "with_lens"),
    [(1, 2, 1, True), (6, 20, 9, True), (40, 60, 50, True), (3, 9, 4, False)],
)
def test_it_draws(tmp_path: Path, layers: int, positions: int, prompt: int, with_lens: bool):
    generator = np.random.default_rng(1)
    lens = LogitLens(np.ones(6, np.float32), generator.normal(size=(len(VOCABULARY), 6)).astype(np.float32), 1e-5)
    cache: Any = Cache(layers, positions, prompt)
    tokens = [VOCABULARY[token_id] for token_id in cache.token_ids[0]]
    captured = CapturedGeneration(
        cache, tokens, VOCABULARY, prompt, "title\n\twith $ and 東京", "subtitle", lens if with_lens else None
    )
    shown = captured.layers()
    assert shown[-1] == layers - 1
    assert len(shown) == min(layers, MAX_LAYERS)
    path = tmp_path / "picture.png"
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font has no Chinese
        draw(captured, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_most_telling_head_looks_elsewhere():
    pattern = np.zeros((3, 4, 4), np.float32)
    pattern[0] = np.eye(4)  # at itself
    pattern[1, :, 0] = 1  # at the first token
    pattern[2] = np.eye(4, k=-1)  # at the previous token
    assert most_focused_head(pattern) == 2
