"""Makes docs/truth.md from the results of the truth suite, docs/truth.json.

python -m tests.truth
python -m scripts.make_truth_page        the page alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.results import grouped, markdown_table
from tests.truth.names.model import GAIN

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "truth.md"
RESULTS = DOCS / "truth.json"

_HEAD = """# Truth

How well the analyses work on models with mechanisms written by hand (`tests/truth`), alone or surrounded by noise, and
on null models without any. `make truth` runs them through the real services and writes this page from
[truth.json](truth.json), which also has calls and seconds. Measured on {machine}, in {seconds:.0f} s while other work
ran.

## Circuits

Each method scores the graph of each planted model on {pairs} pairs of prompts and returns as many edges (or nodes) as
are planted; ACDC chooses the number itself.

* *AUROC*: how often an edge (or node) of the circuit has a larger magnitude than one outside.
* *precision*: share of the circuit among that many strongest edges.
* *Pearson*: correlation of all edge scores with exact edge patching.
* *missing*, *extra*: edges of the circuit that the method omits, and edges that it adds. Edges whose effects cancel may
  be missing: an erased write together with its eraser.
* *faithfulness*, *completeness*, *minimality*, *CPR*, *CMD*: see [circuits.md](circuits.md#evaluation).
* *passes*: the cost in forward passes of the whole model.

The truth depends on the counterfactual: an edge that carries what both prompts share is part of the mechanism, but not
of the circuit. `names` and `names-swapped` are one model with two counterfactuals: all names change, or only the third.
Path patching and ACDC measure other effects than exact edge patching, so their scores differ.

"""

_SATURATION = """
## Gradients under saturation

Pearson correlation of EAP-IG with exact edge patching over all edges of the names model, by steps and by sharpness of
attention: the score of the attended token, all others being 0. The planted model has the highest. Softer attention
makes the answer less certain (*clean*: the logit difference, {gain:g} with hard attention). AUROC of EAP-IG is at least
{least:.3f} in all rows.

Where several edges are each necessary (`names`, where three names change at once), patching one of them shows the whole
effect, and gradients divide it among them; more steps cannot change that. In `names-swapped` the difference passes
through a chain of three heads and meets the third name's key at the last. More steps help up to 20, since with few none
may fall where a head switches. Edges in the middle stay underestimated: steps are evenly spaced, a saturated head's
output is not. Softer attention helps in part. Rely on EAP-IG's ranks, not its magnitudes.

"""


_NULL = """
## Null models

{permutations} null models per method, alternately noise of the planted models' shapes and the bundled model with its
weights permuted within each matrix, on random prompts with random answers. A search ends before *scoring* unless the
runs of the pairs differ at significance .001. Everything found is false; *upper* is the upper bound of Wilson's 95 %
interval.

"""

_GATE = """
### False-positive rate of the significance test

The share of tests that pass on null models, with Wilson's 95 % interval. *Random prompts* are unrelated to their
answers and share nothing, so the share should equal the significance; there are several tests per model. *Prompts of
the tasks* use few words: a noise model may really prefer one of eight names, so some that pass are true effects. On the
planted models, {passed} of {searches} searches pass.

"""

_MIXED = """
## Circuits surrounded by noise

{models} models of `facts` and `addition` in which every idle head and neuron is noise: alternately one that reads
everything and writes where nobody reads, and one that reads what both prompts share and writes everywhere. Neither
changes the true edges, and all searches score them. Methods return as many edges (or nodes) as are planted; ACDC stops
at its default threshold. *False*: returned but not planted; their share is the false discovery rate (edges of one model
are not quite independent). *Missing*: planted but not returned.

Path patching includes paths through MLPs, so an edge that bypasses an MLP of the circuit has an effect although it is
not planted.

"""

_LABELS = """
## Roles of heads

On two planted models with {roles} roles, most with a decoy that has the score of a role and no effect, macro-F1 of
confirmed labels is {macro_f1:.3f}, of labels by score alone {macro_f1_by_score:.3f}. On {permutations} null models,
{false_labels} labels are confirmed, in {models_with_false_labels} of them.
"""


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
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
        )
        for row in found["discovery"]
    ]
    head = ("model", "method", "AUROC", "precision", "Pearson", "missing", "extra", "faithfulness", "completeness")
    circuits = markdown_table((*head, "minimality", "CPR", "CMD", "passes"), rows)
    null = _by_method(
        ("null models", "scored", "found something", "rate", "upper"),
        {
            row["method"]: (
                str(row["permutations"]),
                str(row["scored"]),
                str(row["found"]),
                f"{row['rate']:.1%}",
                f"{row['upper']:.1%}",
            )
            for row in found["null"]
        },
    )
    passed = sum(row["is_found"] for row in found["discovery"])
    steps = found["saturation"]
    return (
        _HEAD.format(**found)
        + circuits
        + _SATURATION.format(gain=GAIN, least=min(row["auroc"] for row in steps))
        + _saturated(steps)
        + _NULL.format(permutations=found["null"][0]["permutations"])
        + null
        + _GATE.format(passed=passed, searches=len(found["discovery"]))
        + _passed(found["gate"])
        + _MIXED.format(models=found["mixed"][0]["models"])
        + _mixed(found["mixed"])
        + _LABELS.format(**found["labels"])
    )


def _saturated(rows: Sequence[Mapping[str, Any]]) -> str:
    by_place: dict[tuple[str, float, float], dict[int, float]] = {}
    for row in rows:
        by_place.setdefault((row["model"], row["sharpness"], row["clean"]), {})[row["steps"]] = row["pearson"]
    steps = sorted({row["steps"] for row in rows})
    return markdown_table(
        ("model", "sharpness", "clean", *(f"{count} steps" for count in steps)),
        [
            (model, f"{sharpness:g}", f"{clean:.2f}", *(f"{found[count]:.3f}" for count in steps))
            for (model, sharpness, clean), found in sorted(by_place.items(), key=lambda each: (each[0][0], -each[0][1]))
        ],
    )


def _passed(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown_table(
        ("prompts", "significance", "tests", "passed", "95 % interval"),
        [
            (
                row["prompts"],
                f"{row['significance']:.1%}",
                str(row["tests"]),
                f"{row['share']:.1%}",
                f"{row['lower']:.1%} to {row['upper']:.1%}",
            )
            for row in rows
        ],
    )


def _mixed(rows: Sequence[Mapping[str, Any]]) -> str:
    return _by_method(
        ("returned", "false", "missing", "false discovery rate", "95 % interval", "models with false ones"),
        {
            row["method"]: (
                str(row["returned"]),
                str(row["false"]),
                str(row["missing"]),
                f"{row['false'] / max(row['returned'], 1):.1%}",
                f"{row['lower']:.1%} to {row['upper']:.1%}",
                f"{row['models_with_false']} of {row['models']}",
            )
            for row in rows
        },
    )


def _by_method(columns: Sequence[str], figures: Mapping[str, tuple[str, ...]]) -> str:
    """A table with one row for all methods of equal figures."""
    rows = grouped((figure, method) for method, figure in figures.items())
    return markdown_table(("method", *columns), [(", ".join(methods), *figure) for figure, methods in rows])


def write(found: Mapping[str, Any]) -> None:
    """Writes results and page."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")


def main() -> None:
    """Writes the page of the stored results."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
