"""Sizes of figures that are printed in a paper without being scaled."""

from __future__ import annotations

import math

WIDTH, HEIGHT = 7.0, 9.5
"""Inches of the text of a page."""
POINTS, TITLE_POINTS = 7, 8.5
"""Sizes of text: of everything, and of titles."""


def tick_step(count: int, extent: float, *, inches: float = 0.125) -> int:
    """Every which of some names is written, so that they do not overlap.

    Args:
        count: number of names.
        extent: inches for all of them.
        inches: how much one takes.
    """
    return max(1, math.ceil(count * inches / extent))
