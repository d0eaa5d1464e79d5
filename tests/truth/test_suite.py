"""Parts of the truth suite that are quick: two methods on one planted model, and on null models of three.

python -m pytest tests/truth/test_suite.py
"""

from pathlib import Path

import numpy as np
import pytest

from tests.truth import suite
from tests.truth.methods import METHODS
from tests.truth.noise import random_pairs
from tests.truth.running import Bench

FEW = ("edge-patching", "eap-ig")


def test_a_planted_circuit_is_found(services: Bench, tmp_path: Path) -> None:
    rows = suite.discovery(services, tmp_path, print, ["facts"], FEW)
    assert [row["method"] for row in rows] == list(FEW)
    for row in rows:
        assert (row["auroc"], row["precision"], row["missing"], row["extra"]) == (1.0, 1.0, 0, 0)
        assert row["faithfulness"] == pytest.approx(1, abs=1e-3)
        assert row["completeness"] == pytest.approx(1, abs=1e-3)
        assert row["minimality"] == 1.0
        assert row["pearson"] > 0.9
        assert 0 < row["cmd"] < row["cpr"] < 1


def test_nothing_is_found_in_null_models(services: Bench, tmp_path: Path) -> None:
    """Which answer to their prompts, unlike planted weights that are permuted: there is noise to tell effects from."""
    rows, gate = suite.null(services, tmp_path, print, ["facts", "addition"], FEW, 3)
    assert [(row["permutations"], row["found"]) for row in rows] == [(3, 0)] * len(FEW)
    assert [(row["tests"], row["significance"]) for row in gate[:3]] == [(12, 0.05), (12, 0.01), (12, 0.001)]
    assert [row["tests"] for row in gate[3:]] == [3, 3, 3]
    for folder in ("null-0", "null-1", "null-2"):
        with services.model(tmp_path / folder) as model_id:
            for clean, corrupted, shared in suite.differences(services, model_id, random_pairs(8, 0)):
                assert np.abs(clean - corrupted).mean() > 0.1
                assert np.array_equal(shared, np.eye(8))


def test_noise_beside_a_mechanism_is_not_returned(services: Bench, tmp_path: Path) -> None:
    for row in suite.mixed(services, tmp_path, print, list(suite.FLAGS), FEW, 2):
        assert (row["models"], row["returned"], row["false"], row["missing"]) == (2, 10, 0, 0)


def test_methods_are_those_that_there_are() -> None:
    from neuroscope.circuits.content import METHODS as known

    assert set(METHODS) == set(known)
