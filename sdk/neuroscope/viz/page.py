"""Sizes of figures that are printed in a paper without being scaled."""

WIDTH, HEIGHT = 7.0, 9.5
"""Inches of the text of a page."""
POINTS, TITLE_POINTS = 7, 8.5
"""Sizes of text: of everything, and of titles."""
