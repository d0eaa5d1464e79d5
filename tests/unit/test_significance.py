"""What counts as more than noise.  Run: .venv/bin/python -m pytest tests/unit/test_bounds.py"""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from neuroscope.errors import InvalidRequestError
from neuroscope_analysis import significance


def test_chances_are_those_of_a_t_test() -> None:
    changes = np.random.default_rng(0).standard_normal((9, 20)) + 0.3
    found = significance.p_values(changes.mean(axis=0), significance.standard_error(changes), len(changes))
    tested: Any = stats.ttest_1samp(changes, 0)
    np.testing.assert_allclose(found, tested.pvalue, rtol=1e-9)


def test_an_effect_without_any_noise_is_certain_and_none_is_none() -> None:
    assert significance.p_values(np.array([0.5, 0.0]), np.zeros(2), 4).tolist() == [0.0, 1.0]


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    chances = np.random.default_rng(1).uniform(size=200) ** 3
    expected = stats.false_discovery_control(chances, method="bh") <= 0.05
    assert 0 < expected.sum() < 200
    assert significance.benjamini_hochberg(chances, 0.05).tolist() == expected.tolist()
    assert not significance.benjamini_hochberg(np.ones(5), 0.05).any()
    assert significance.benjamini_hochberg(np.zeros(0), 0.05).tolist() == []


def test_of_nothing_few_discoveries_are_made() -> None:
    """In 1000 searches without any effect, each of 50 paths on 8 pairs."""
    changes = np.random.default_rng(2).standard_normal((8, 1000, 50))
    effects, errors = changes.mean(axis=0), significance.standard_error(changes)
    searches = [
        significance.benjamini_hochberg(significance.p_values(effects[at], errors[at], 8), 0.05).any()
        for at in range(1000)
    ]
    assert np.mean(searches) < 0.07


@pytest.mark.parametrize(("least", "chance", "field"), [(-1.0, 0.1, "a"), (np.nan, 0.1, "a"), (0.1, 1.0, "b")])
def test_numbers_out_of_their_range(least: float, chance: float, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        significance.check_ranges(least, chance, "a", "b")
    assert caught.value.field == field
