"""docs/truth.md is what the script makes of what the truth suite measured, and that holds the bars.

python -m pytest tests/unit/test_truth_page.py
"""

import json
from typing import Any

import pytest

from scripts.make_truth_page import PAGE, RESULTS, page
from tests.truth.measures import wilson_upper
from tests.truth.methods import METHODS
from tests.truth.suite import PERMUTATIONS
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
        assert row["upper"] == pytest.approx(wilson_upper(row["found"], row["permutations"]))
        assert row["upper"] <= 0.05, row


def test_confirmed_labels_are_the_planted_ones(found: Any) -> None:
    assert found["labels"]["macro_f1"] == 1.0
    assert found["labels"]["macro_f1_by_score"] < 0.8


def test_wilsons_bound() -> None:
    """Against its formula's value for 0 and 3 of 100."""
    assert wilson_upper(0, 100) == pytest.approx(0.0370, abs=1e-4)
    assert wilson_upper(3, 100) == pytest.approx(0.0845, abs=1e-4)
