"""Measures circuits of the bundled model and writes them into docs/circuits.md: a table, and pictures in docs/images.

python scripts/make_circuits_page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from neuroscope.analysis import AnalysisClient
from neuroscope.circuits import Circuit
from neuroscope.cli.bundled import require_bundled_model
from neuroscope.datasets import Dataset

DOCS = Path(__file__).parents[1] / "docs"
PAGE, NUMBERS, IMAGES = DOCS / "circuits.md", DOCS / "circuits.json", DOCS / "images"
BEGIN, END = "<!-- measured by scripts/make_circuits_page.py -->", "<!-- end of what was measured -->"
DATASETS = ("copying", "ioi", "facts", "arithmetic")
PAIRS = 64
SIZES = (0.02, 0.05, 0.1, 0.2)
SIZE = 0.2


def main() -> int:
    """Measures, draws and writes."""
    with AnalysisClient.local(model=[str(require_bundled_model())]) as client:
        rows = [_measured(client, *client.dataset(name, count=PAIRS).split()) for name in DATASETS]
        ioi, copying = (client.discover_circuit(name, pairs=16, curve=True) for name in ("ioi", "copying"))
        ioi.circuit.save(IMAGES / "circuit_ioi.png")
        ioi.circuit.compare(copying.circuit).plot(IMAGES / "circuit_comparison.png")
    NUMBERS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}\n{table(rows)}{after}", encoding="utf-8")
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements in Markdown."""
    sizes = " | ".join(f"{100 * size:g} %" for size in SIZES)
    lines = [
        f"| dataset | metric on clean prompts | on corrupted prompts | {sizes} | completeness | CPR | CMD |",
        "|---|" + "---|" * (5 + len(SIZES)),
    ]
    for row in rows:
        points = " | ".join(f"{value:.3f}" for value in row["faithfulness"])
        rest = " | ".join(f"{row[name]:.3f}" for name in ("completeness", "cpr", "cmd"))
        lines.append(f"| {row['dataset']} | {row['clean']:.2f} | {row['corrupted']:.2f} | {points} | {rest} |")
    return "\n".join([*lines, ""])


def _measured(client: AnalysisClient, found_on: Dataset, tried_on: Dataset) -> dict[str, Any]:
    """A circuit found on one half of the pairs, measured on the other."""
    circuit = client.discover_circuit(found_on, size=SIZE, evaluate=False).circuit
    whole = client.evaluate_circuit(circuit, tried_on, curve=True).circuit.evaluation
    assert whole is not None
    points = [_faithfulness(client, circuit.strongest(size=size), tried_on) for size in SIZES]
    return {
        "dataset": found_on.name,
        "clean": whole.clean,
        "corrupted": whole.corrupted,
        "faithfulness": points,
        "completeness": whole.completeness,
        "cpr": whole.cpr,
        "cmd": whole.cmd,
    }


def _faithfulness(client: AnalysisClient, circuit: Circuit, pairs: Dataset) -> float:
    measured = client.evaluate_circuit(circuit, pairs, completeness=False).circuit.evaluation
    assert measured is not None
    return measured.faithfulness


if __name__ == "__main__":
    sys.exit(main())
