"""Makes the pictures of README and docs by running the demo: demo.png, circuit.png and terminal.svg in docs/images.

python scripts/make_pictures.py [--model PATH]
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from neuroscope.cli.bundled import require_bundled_model
from neuroscope.cli.demo.demo import QUESTION, Demo

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 118
_NORMAL = "161a21 ff6b5e 4ac97e e8be4e 6e8afa d078dc 50c4d2 dee2eb"
_BRIGHT = "6e7684 ff8a80 78de9e f4d678 96aafc e29cec 82dce8 ffffff"


def _colours(digits: str) -> list[tuple[int, int, int]]:
    return [(int(d[:2], 16), int(d[2:4], 16), int(d[4:], 16)) for d in digits.split()]


THEME = TerminalTheme(_colours(_NORMAL)[0], _colours(_NORMAL)[-1], _colours(_NORMAL), _colours(_BRIGHT))


def main() -> int:
    """Runs the demo and writes the pictures; 1 if the demo fails."""
    parser = argparse.ArgumentParser(description="Makes the pictures of the README.")
    parser.add_argument("--model", help="folder of a model; by default the bundled one")
    model = parser.parse_args().model or str(require_bundled_model())
    console = Console(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), "neuroscope demo"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if not Demo(console, Path("demo-output"), str(Path(model).resolve()), QUESTION, max_tokens=24).run():
            sys.stderr.write(console.export_text())
            return 1
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copy("demo-output/capture.png", IMAGES / "demo.png")
        shutil.copy("demo-output/circuit.png", IMAGES / "circuit.png")
        os.chdir(IMAGES)
    # The picture loads nothing: without its web font it takes the reader's own monospace.
    code_format = re.sub(r"@font-face\s*{{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(
        title="neuroscope demo",
        theme=THEME,
        code_format=code_format,
        unique_id="demo",
    )
    (IMAGES / "terminal.svg").write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
