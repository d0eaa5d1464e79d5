"""Writes matplotlib figures to files, including self-contained HTML pages."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any


def write(figure: Any, path: str | Path, title: str) -> None:
    """Writes the figure; the suffix selects the format: .png, .svg, .pdf, or .html with inline SVG."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        figure.savefig(path, dpi=150)
        return
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    svg = drawn.getvalue()
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title></head>"
        f"<body style='margin:1rem;background:white'>{svg[svg.index('<svg') :]}</body></html>"
    )
    path.write_text(page, encoding="utf-8")
