"""Makes docs/truth.md from what the truth suite measured, which is kept as docs/truth.json.

python -m tests.truth
python -m scripts.make_truth_page        the page alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.results import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "truth.md"
RESULTS = DOCS / "truth.json"

_HEAD = """# Truth

How analyses do where the answer is known: on models whose weights are written by hand (`tests/truth`), and on null
models, the same weights permuted within each matrix, in which there is nothing to find. `make truth` runs all of it
through the real services and makes this page of [truth.json](truth.json); these figures are of {machine},
{seconds:.0f} s with whatever else ran.

## Circuits

Each method scores the graph of each model on {pairs} pairs of prompts and is asked for as many edges (or nodes) as are
planted; ACDC says itself how many there are.

* *AUROC*: how often an edge of the circuit has a larger magnitude than another; of methods that score nodes, a node.
* *precision*: the share of the circuit among so many strongest.
* *Pearson* of the scores with exact edge patching, over all edges.
* *missing* and *extra*: edges of the circuit that the method's own lacks, and that it has too many. Edges whose
  effects cancel each other may be missing: what is erased on the way can be left out together with its eraser.
* *faithfulness*, *completeness*, *minimality*, *CPR* and *CMD* of the method's circuit ([circuits.md](circuits.md)).
* *passes*: forward passes of the whole model that would take as long; *calls* of the inference service.

The truth is one of a counterfactual: an edge that carries what both prompts share is in the mechanism, and not in the
circuit. Path patching and ACDC ask other questions than exact edge patching does, so their scores are other ones. Where
several edges are each needed (`names`), a patch of any one shows all of it, and gradients share it out among them:
their ranks are right and their magnitudes are not.

"""

_NULL = """
## Where there is nothing

{permutations} null models for each method, of the planted models and of the bundled one in turn, with prompts and
answers of the model that they were made of. Where the runs of the pairs do not differ by more than noise, a search ends
before anything is *scored*. What a method finds there is false; *upper* is the bound of Wilson's interval of 95 %.

"""

_LABELS = """
## Roles of heads

Of {roles} roles on two planted models, most with a decoy that has a role's score and does nothing, macro-F1 of the
labels that a causal test confirms is {macro_f1:.3f}, of labels by score alone {macro_f1_by_score:.3f}. On
{permutations} null models {false_labels} labels are confirmed, in {models_with_false_labels} of them.
"""


def page(found: Mapping[str, Any]) -> str:
    """The page of what was measured."""
    rows = [
        (
            row["model"],
            row["method"],
            _number(row["auroc"], 3),
            _number(row["precision"], 2),
            _number(row.get("pearson"), 3),
            _count(row.get("missing")),
            _count(row.get("extra")),
            _number(row.get("faithfulness"), 3),
            _number(row.get("completeness"), 3),
            _number(row.get("minimality"), 2),
            _number(row.get("cpr"), 2),
            _number(row.get("cmd"), 2),
            f"{row['forward_passes']:,.0f}",
            str(row["calls"]),
            f"{row['seconds']:.1f}",
        )
        for row in found["discovery"]
    ]
    head = ("model", "method", "AUROC", "precision", "Pearson", "missing", "extra", "faithfulness", "completeness")
    circuits = markdown_table((*head, "minimality", "CPR", "CMD", "passes", "calls", "s"), rows)
    null = markdown_table(
        ("method", "null models", "scored", "found something", "rate", "upper", "s"),
        [
            (
                row["method"],
                str(row["permutations"]),
                str(row["scored"]),
                str(row["found"]),
                f"{row['rate']:.1%}",
                f"{row['upper']:.1%}",
                f"{row['seconds']:.0f}",
            )
            for row in found["null"]
        ],
    )
    return (
        _HEAD.format(**found)
        + circuits
        + _NULL.format(permutations=found["null"][0]["permutations"])
        + null
        + _LABELS.format(**found["labels"])
    )


def write(found: Mapping[str, Any]) -> None:
    """Keeps what was measured, and makes the page of it."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")


def main() -> None:
    """Makes the page of what was kept."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
