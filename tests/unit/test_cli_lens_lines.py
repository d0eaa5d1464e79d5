"""neuroscope.cli.demo.lens_lines and neuroscope.vocabulary.token_text: the terminal's picture of a generation."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from neuroscope.activations.lens import LogitLens
from neuroscope.cli.demo.lens_lines import LensLines, centred, heat, spread
from neuroscope.vocabulary.token_text import shortened, visible


@pytest.mark.parametrize(
    ("count", "room", "layers"),
    [(4, 9, [0, 1, 2, 3]), (4, 4, [0, 1, 2, 3]), (12, 4, [0, 4, 7, 11]), (80, 1, [79]), (9, 2, [0, 8])],
)
def test_the_last_layer_is_always_among_those_shown(count: int, room: int, layers: list[int]):
    assert spread(count, room) == layers


@pytest.mark.parametrize(
    ("text", "shown"),
    [(" Paris", "·Paris"), ("a\nb", "a⏎b"), ("\t", "⇥"), ("", "∅"), ("\x1b[31m", "�[31m"), ("東京", "東京")],
)
def test_tokens_are_visible_and_harmless(text: str, shown: str):
    assert visible(text) == shown


def test_long_texts_are_cut():
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize("text", ["", "a", "abcdefghijkl", "東京東京東京"])
def test_cells_have_one_width(text: str):
    assert cell_len(centred(text, 9)) == 9


def test_heat_runs_from_dark_to_bright():
    brightness = [sum(heat(p).bgcolor.triplet) for p in (0.0, 0.5, 1.0)]  # pyright: ignore
    assert brightness == sorted(brightness)
    assert heat(float("nan")) == heat(0.0)
    assert heat(1.5) == heat(1.0)


def _token(layers: int) -> Any:
    pieces = {}
    for layer in range(layers):
        site = SimpleNamespace(component="resid_post", layer=layer)
        residual = np.array([[[0, 1], [1, 0]]], np.float32)  # the last position points at token 0
        pieces[f"r{layer}"] = [SimpleNamespace(spec=SimpleNamespace(site=site), array=residual)]
    return SimpleNamespace(step=3, token_id=1, activations=pieces)


def test_a_line_has_a_cell_for_each_layer_and_what_arrived():
    lens = LogitLens(np.ones(2, np.float32), np.eye(2, dtype=np.float32) * 9, 1e-6)
    lines = LensLines(lens, ["zero", " one"], 3, 100)
    line = lines.line(_token(3)).plain
    assert line.count("zero") == 3
    assert "·one" in line
    assert line.endswith("3 tensors, 48 B")
    header = lines.header().plain
    assert header.index("layer 2") < line.rindex("zero") + 6
    assert header.index("token") == line.index("·one")


def test_without_a_lens_the_cells_are_left_out():
    line = LensLines(None, ["zero", " one"], 3, 100).line(_token(3)).plain
    assert "zero" not in line
    assert "3 tensors" in line
