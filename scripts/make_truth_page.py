"""Makes docs/truth.md from what the truth suite measured, which is kept as docs/truth.json.

python -m tests.truth
python -m scripts.make_truth_page        the page alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.results import markdown_table
from tests.truth.names.model import GAIN

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "truth.md"
RESULTS = DOCS / "truth.json"

_HEAD = """# Truth

How analyses do where the answer is known: on models whose weights are written by hand (`tests/truth`), on models of
noise, in which there is nothing to find, and on a mechanism with noise beside it. `make truth` runs all of it
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
circuit. `names` and `names-swapped` are one model under two counterfactuals: all names are others, or the third name
alone is. Path patching and ACDC ask other questions than exact edge patching does, so their scores are other ones.

"""

_SATURATION = """
## Where magnitudes of gradients are not those of patching

EAP-IG beside exact edge patching on the model of names: Pearson over all edges, by steps of EAP-IG, and by how sharp
the heads look (what they look for has that score, all else 0; the planted model's is the first) - the softer, the less
sure is the answer (*clean*, the logit difference, which is {gain:g} where attention is all or nothing). AUROC of EAP-IG
is at least {least:.3f} in all of these.

Where several edges are each needed, as all those of `names` where three names change at once, a patch of any one shows
all of it, and gradients share it out among them, as they must: no number of steps mends that. In `names-swapped` the
difference travels a chain of three heads, and meets the third name's key at the last. There steps help: with few, no
step may fall where a head changes its mind. More steps than 20 change nothing: inputs on the line between the prompts
are evenly spaced and what a saturated head writes on the way is not, so that edges in the middle get less than they
carry. Softer attention mends part of it, for an answer that is less sure. Their ranks are right; their magnitudes are
not to be read as effects.

"""


_NULL = """
## Where there is nothing

{permutations} null models for each method: noise of the shapes of the planted models, and the bundled model with its
weights permuted within each matrix, in turn, on random prompts with random answers. (Planted weights, permuted, are no
test: they are so sparse that what one part writes no other reads, and no prompt makes a difference.) Where the runs of
the pairs do not differ by more than noise allows at a significance of .001, a search ends before anything is *scored*.
What a method finds there is false; *upper* is the bound of Wilson's interval of 95 %.

"""

_GATE = """
That a search ends there says something only of a gate that is neither shut nor open. So this is how often it opens on
these models, held against what its significance allows, with Wilson's interval of 95 %. *Random prompts* tell nothing
of their answers and share nothing, so that shares should be the significance; there are several tests a model.
*Prompts of the tasks* have few words: a model of noise may well prefer what one of eight names does to its logit, for
all prompts that are made of the eight, and some of what passes there is an effect. Of the searches on planted models
above, {opened} of {searches} found the gate open.

"""

_MIXED = """
## Where there is something, and much beside it

{models} models of `facts` and of `addition` in which every idle head and neuron is filled with noise: by turns one that
reads all, also what tells the prompts apart, and writes to where nobody reads; and one that reads what both prompts
share and writes to everything. Neither changes what is true of the edges, and a search does score them all. Each method
is asked for as many edges (or nodes) as are planted; ACDC stops by itself, at its usual threshold. *False* are those
returned that are not planted, a share that is the false discovery rate by edge, with Wilson's interval of 95 % (edges
of one model are not quite independent); *missing* those planted that are not returned.

Path patching also counts paths through the MLPs between two nodes, so that an edge around an MLP of the circuit is none
of the planted ones, and has an effect of that kind.

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
    opened = sum(row["is_found"] for row in found["discovery"])
    steps = found["saturation"]
    return (
        _HEAD.format(**found)
        + circuits
        + _SATURATION.format(gain=GAIN, least=min(row["auroc"] for row in steps))
        + _saturated(steps)
        + _NULL.format(permutations=found["null"][0]["permutations"])
        + null
        + _GATE.format(opened=opened, searches=len(found["discovery"]))
        + _opened(found["gate"])
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


def _opened(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown_table(
        ("prompts", "significance", "tests", "opened", "95 % interval"),
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
    return markdown_table(
        ("method", "returned", "false", "missing", "false discovery rate", "95 % interval", "models with false ones"),
        [
            (
                row["method"],
                str(row["returned"]),
                str(row["false"]),
                str(row["missing"]),
                f"{row['false'] / max(row['returned'], 1):.1%}",
                f"{row['lower']:.1%} to {row['upper']:.1%}",
                f"{row['models_with_false']} of {row['models']}",
            )
            for row in rows
        ],
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
