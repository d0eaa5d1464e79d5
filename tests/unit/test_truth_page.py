"""docs/truth.md is what the script makes of what the truth suite measured, and that holds the bars.

python -m pytest tests/unit/test_truth_page.py
"""

import json
from typing import Any

import pytest

from scripts.make_truth_page import PAGE, RESULTS, page
from tests.truth.measures import wilson
from tests.truth.methods import METHODS
from tests.truth.suite import MIXED, PERMUTATIONS, SIGNIFICANCES
from tests.truth.tasks import TASKS


@pytest.fixture(scope="module")
def found() -> Any:
    return json.loads(RESULTS.read_text())


def test_the_page_is_what_the_script_makes(found: Any) -> None:
    assert PAGE.read_text() == page(found)


def test_every_method_and_model_is_in_it(found: Any) -> None:
    assert {(row["model"], row["method"]) for row in found["discovery"]} == {
        (task, method) for task in TASKS for method in METHODS
    }
    assert {row["method"] for row in found["null"]} == set(METHODS)


def test_exact_patching_and_acdc_find_what_is_planted(found: Any) -> None:
    """Those edges and no others, and they do what the model does."""
    for row in found["discovery"]:
        if row["method"] in ("edge-patching", "acdc"):
            assert (row["missing"], row["extra"]) == (0, 0), row
            assert row["faithfulness"] == pytest.approx(1, abs=0.01), row
        if row["method"] in ("edge-patching", "eap-ig"):
            assert row["auroc"] == 1.0, row


def test_nothing_is_found_where_there_is_nothing(found: Any) -> None:
    for row in found["null"]:
        assert row["permutations"] >= PERMUTATIONS
        assert row["upper"] == pytest.approx(wilson(row["found"], row["permutations"])[1])
        assert row["upper"] <= 0.05, row


def test_confirmed_labels_are_the_planted_ones(found: Any) -> None:
    assert found["labels"]["macro_f1"] == 1.0
    assert found["labels"]["macro_f1_by_score"] < 0.8


def test_the_gate_opens_as_often_as_its_significance_says(found: Any) -> None:
    """Where pairs are independent; and to all searches where something is planted."""
    random = [row for row in found["gate"] if row["prompts"] == "random prompts"]
    assert {row["significance"] for row in random} == set(SIGNIFICANCES)
    for row in found["gate"]:
        assert (row["lower"], row["upper"]) == pytest.approx(wilson(round(row["share"] * row["tests"]), row["tests"]))
    for row in random:
        assert row["tests"] >= 4 * PERMUTATIONS
        assert row["lower"] <= row["significance"] <= row["upper"], row
    assert all(row["is_found"] for row in found["discovery"])


def test_noise_beside_a_mechanism_is_left_out(found: Any) -> None:
    """By all methods but path patching, which asks for more than direct edges."""
    assert {row["method"] for row in found["mixed"]} == set(METHODS)
    for row in found["mixed"]:
        assert row["models"] >= MIXED
        assert (row["lower"], row["upper"]) == pytest.approx(wilson(row["false"], row["returned"]))
        if row["method"] != "path-patching":
            assert (row["false"], row["missing"]) == (0, 0), row
            assert row["upper"] <= 0.05, row


def test_wilsons_interval() -> None:
    """Against its formula's value for 0, 3 and 50 of 100."""
    assert wilson(0, 100) == (0, pytest.approx(0.0370, abs=1e-4))
    assert wilson(3, 100)[1] == pytest.approx(0.0845, abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
