"""The comparisons that every capture test relies on.

pytest tests/unit/test_compare.py
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.compare import ActivationName, assert_all_close, assert_close, relative_error

LOWEST = float(np.finfo(np.float32).min)
INFINITY = float("inf")


def test_relative_error_is_scaled_by_the_reference() -> None:
    assert relative_error([1.0, 2.0, 5.0], [1.0, 2.0, 4.0]) == 0.25
    assert relative_error([4.0], [5.0]) == 0.2
    assert relative_error([0.0], [0.0]) == 0.0
    assert relative_error([1e-9], [0.0]) == INFINITY


def test_computes_in_float64() -> None:
    assert relative_error(np.ones(1, np.float32), np.array([1.0 + 1e-12])) == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize(
    ("tested", "reference"),
    [([np.nan], [1.0]), ([1.0], [np.nan]), ([1.0, np.nan], [1.0, np.nan]), ([np.inf], [np.inf])],
)
def test_nan_is_never_close(tested: list[float], reference: list[float]) -> None:
    assert relative_error(tested, reference) == INFINITY


def test_different_shapes_and_empty_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(2,\) and \(2, 1\)"):
        relative_error([1.0, 2.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="no entries"):
        relative_error([], [])
    with pytest.raises(ValueError, match="no tensors"):
        assert_all_close({}, {}, tolerance=1.0)


@pytest.mark.parametrize("mask", [LOWEST, -INFINITY, np.finfo(np.float16).min])
def test_masked_entries_are_left_out(mask: float) -> None:
    assert relative_error([1.0, 3.0, mask], [1.0, 2.0, LOWEST], exclude_masked=True) == 0.5


def test_a_different_mask_is_an_infinite_error() -> None:
    assert relative_error([1.0, 0.0], [1.0, LOWEST], exclude_masked=True) == INFINITY
    assert relative_error([1.0, LOWEST], [1.0, 0.0], exclude_masked=True) == INFINITY


def test_message_names_tensor_and_entry() -> None:
    tested = np.array([[1.0, 2.0], [3.0, 7.0]])
    reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    expected = r"resid_post\[3\]: relative error 0.75 > 1e-05, worst at \[1, 1\] of shape \(2, 2\): 7, expected 4"
    with pytest.raises(AssertionError, match=expected):
        assert_close(("resid_post", 3), tested, reference, tolerance=1e-5)


def test_message_points_at_a_wrong_mask() -> None:
    with pytest.raises(AssertionError, match=r"relative error inf .* worst at \[1\]"):
        assert_close("scores", [1.1, 0.0, LOWEST], [1.0, LOWEST, LOWEST], tolerance=0.2, exclude_masked=True)


def test_all_tensors_that_differ_are_listed() -> None:
    ones = np.ones(2)
    reference: dict[ActivationName, NDArray[np.float64]] = {
        ("resid_pre", 0): ones,
        ("ln1", 0): ones,
        ("attention_scores", 0): np.array([1.0, LOWEST]),
        ("logits", None): ones,
    }
    assert_all_close(reference | {("attention_scores", 0): np.array([1.0, -INFINITY])}, reference, tolerance=0.0)
    tested: dict[ActivationName, NDArray[np.float64]] = {
        ("resid_pre", 0): ones,
        ("logits", None): ones + 1,
        ("embedding", None): ones,
        ("ln1", 0): np.ones(3),
    }
    with pytest.raises(AssertionError) as failure:
        assert_all_close(tested, reference, tolerance=0.5)
    first, *lines = str(failure.value).splitlines()
    assert first == "3 of 4 tensors differ"
    assert [line.split(":")[0] for line in lines] == ["logits", "embedding", "ln1[0]"]


def test_a_tensor_at_the_tolerance_is_close() -> None:
    assert_close("logits", [1.5], [1.0], tolerance=0.5)
