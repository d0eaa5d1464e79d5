"""Writes matplotlib figures to files, including self-contained HTML pages."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context  # pyright: ignore[reportUnknownVariableType]

_TEXT_AS_TEXT: Any = {"svg.fonttype": "none", "pdf.fonttype": 42}
"""Text stays text, to search, copy and edit."""


def write(figure: Any, path: str | Path, title: str) -> None:
    """Writes the figure; the suffix selects the format: .png, .svg, .pdf, or .html with inline SVG."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        with rc_context(_TEXT_AS_TEXT):
            figure.savefig(path, dpi=150)
        return
    svg = to_bytes(figure, "svg").decode()
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title></head>"
        f"<body style='margin:1rem;background:white'>{svg[svg.index('<svg') :]}</body></html>"
    )
    path.write_text(page, encoding="utf-8")


def to_bytes(figure: Any, format: str) -> bytes:
    """The content of a file: png, svg or pdf."""
    written = io.BytesIO()
    with rc_context(_TEXT_AS_TEXT):
        figure.savefig(written, format=format, dpi=150)
    return written.getvalue()
