"""The logit lens of a generation as lines of a terminal: a line for each token, a cell for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from neuroscope.activations.lens import LogitLens
from neuroscope.activations.stream import GeneratedToken
from neuroscope.tracing.waterfall import format_bytes
from neuroscope.vocabulary.token_text import visible

_STEP, _TOKEN, _ARRIVED = 4, 12, 22
_CELL, _CELL_WITH_NUMBER = 10, 14
# Colours from improbable to certain: (probability, red, green, blue), the first ones of matplotlib's viridis.
_RAMP = ((0.0, 40, 42, 66), (0.25, 59, 82, 139), (0.5, 33, 145, 140), (0.75, 94, 201, 98), (1.0, 253, 231, 37))


class LensLines:
    """Lines as wide as the terminal; where not all layers have room, some are left out, never the last.

    Colour tells a cell's probability, and so does a number where all layers have room for one.

    Args:
        lens: of the model; None leaves the cells out.
        vocabulary: text of every token id.
        num_layers: layers of the model.
        width: columns of the terminal.
    """

    def __init__(self, lens: LogitLens | None, vocabulary: Sequence[str], num_layers: int, width: int) -> None:
        self._lens = lens
        self._vocabulary = vocabulary
        room = width - _STEP - _TOKEN - _ARRIVED - 4
        self._numbered = num_layers * _CELL_WITH_NUMBER <= room
        self._cell_width = _CELL_WITH_NUMBER if self._numbered else _CELL
        self._layers = spread(num_layers, max(1, room // self._cell_width)) if lens is not None else []

    def header(self) -> Text:
        """The line above the others."""
        line = Text(f"{'step':>{_STEP}}  ", "dim")
        for layer in self._layers:
            line.append(f"{f'layer {layer}':^{self._cell_width}}", "dim")
        line.append(f"  {'token':<{_TOKEN}}", "dim")
        line.append("what arrived", "dim")
        return line

    def line(self, token: GeneratedToken) -> Text:
        """What each layer would have said at the last position, what the model said, and what arrived with it."""
        line = Text.assemble((f"{token.step:>{_STEP}}  ", "dim"))
        if self._lens is not None:
            for layer in self._layers:
                line.append(self._cell(self._lens, token, layer))
        pieces = [piece for found in token.activations.values() for piece in found]
        length = sum(piece.array.nbytes for piece in pieces)
        word = visible(self._vocabulary[token.token_id])
        line.append("  ")
        line.append(set_cell_size(word, _TOKEN - 1) + " ", "bold green")
        line.append(f"{len(pieces)} tensors, {format_bytes(length)}", "cyan")
        return line

    def _cell(self, lens: LogitLens, token: GeneratedToken, layer: int) -> Text:
        for pieces in token.activations.values():
            site = pieces[-1].spec.site
            if site.component == "resid_post" and site.layer == layer:
                found = lens.predictions(pieces[-1].array[0, -1])
                probability = float(found.probabilities)
                word = visible(self._vocabulary[int(found.token_ids)])
                if not self._numbered:
                    return Text(centred(word, self._cell_width), heat(probability))
                return Text(f"{centred(word, self._cell_width - 5)}{probability:4.0%} ", heat(probability))
        return Text(" " * self._cell_width)


def spread(count: int, room: int) -> list[int]:
    """At most `room` of the numbers 0, ..., count - 1, evenly apart, the last one always among them."""
    if count <= room:
        return list(range(count))
    if room == 1:
        return [count - 1]
    return [round(index * (count - 1) / (room - 1)) for index in range(room)]


def centred(text: str, width: int) -> str:
    """The text in the middle of a cell, cut if it is too long."""
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    left = (width - cell_len(text)) // 2
    return set_cell_size(" " * left + text, width)


def heat(probability: float) -> Style:
    """Dark for improbable, bright for certain, with letters that can be read on it."""
    probability = min(1.0, max(0.0, 0.0 if math.isnan(probability) else probability))
    upper = next(index for index in range(1, len(_RAMP)) if probability <= _RAMP[index][0])
    (p0, *low), (p1, *high) = _RAMP[upper - 1], _RAMP[upper]
    share = (probability - p0) / (p1 - p0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    letters = "#101010" if 0.3 * red + 0.59 * green + 0.11 * blue > 115 else "#d8dce6"
    return Style(color=letters, bgcolor=f"#{red:02x}{green:02x}{blue:02x}")
