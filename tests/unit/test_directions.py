"""Directions on activations of which the answer is known: what methods find, what they admit, files, schedules.

python -m pytest tests/unit/test_directions.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuroscope.directions import METHODS, Direction, Directions
from neuroscope.directions.finding import Separation, find, separation
from neuroscope.errors import DataConversionError, InvalidRequestError, UnknownSiteError
from neuroscope.vocabulary.sites import Point

WIDTH = 32
GAP = 6.0


def planted(seed: int, gap: float = GAP, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A direction, and two sets that lie `gap` apart along it and differ in nothing else."""
    random = np.random.default_rng(seed)
    unit = random.normal(size=WIDTH)
    unit /= np.linalg.norm(unit)
    noise = random.normal(size=(2, count, WIDTH))
    return unit, noise[0] + unit * gap / 2, noise[1] - unit * gap / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method: str) -> None:
    unit, positives, negatives = planted(1)
    found = find(method, positives, negatives)
    assert unit @ found / np.linalg.norm(found) > 0.9
    assert np.linalg.norm(found) == pytest.approx(GAP, rel=0.15)
    told = separation(method, positives, negatives)
    assert told.count == 80
    assert told.accuracy > 0.95
    assert told.is_significant


@pytest.mark.parametrize("method", METHODS)
def test_where_there_is_nothing_it_says_so(method: str) -> None:
    told = [separation(method, *planted(seed, gap=0)[1:]) for seed in range(20)]
    assert sum(each.is_significant for each in told) <= 3  # 5 % of 20 is one
    assert abs(np.mean([each.accuracy for each in told]) - 0.5) < 0.06


def test_the_mean_difference_is_that() -> None:
    _, positives, negatives = planted(2)
    expected = positives.mean(0) - negatives.mean(0)
    np.testing.assert_allclose(find("mean_difference", positives, negatives), expected, rtol=1e-12)


def test_a_principal_component_sees_what_pairs_have_in_common() -> None:
    """Each pair shares a large vector of its own, which its difference is free of."""
    unit, positives, negatives = planted(3, gap=2, count=30)
    shared = np.random.default_rng(4).normal(size=positives.shape) * 20
    found = find("principal_component", positives * 0.1 + unit + shared, negatives * 0.1 - unit + shared)
    assert unit @ found / np.linalg.norm(found) > 0.99


def test_p_values_are_those_of_coin_tosses() -> None:
    assert Separation(10, 10).p_value == pytest.approx(2**-10)
    assert Separation(0, 10).p_value == 1
    assert Separation(5, 10).p_value == pytest.approx(0.623, abs=1e-3)
    assert not Separation(0, 0).is_significant
    assert np.isnan(Separation(0, 0).accuracy)


def test_too_few_prompts_are_not_tried() -> None:
    _, positives, negatives = planted(5, count=1)
    assert separation("mean_difference", positives, negatives).count == 0


@pytest.mark.parametrize(
    ("method", "positives", "negatives", "field"),
    [
        ("median", np.ones((2, 3)), np.zeros((2, 3)), "method"),
        ("principal_component", np.ones((2, 3)), np.zeros((3, 3)), "negative"),
        ("mean_difference", np.ones((2, 3)), np.ones((3, 3)), "negative"),
    ],
)
def test_what_cannot_be_found_is_an_error(
    method: str, positives: np.ndarray, negatives: np.ndarray, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        find(method, positives, negatives)
    assert caught.value.field == field


# Edits.

DIRECTION = Direction(Point("resid_post", 3), np.array([3, 4], np.float32), Separation(7, 8), 1.0)


def test_projections_count_from_the_middle() -> None:
    np.testing.assert_allclose(DIRECTION.project(np.array([[3, 4], [0, 0]])), [4, -1])


def test_a_schedule_is_an_edit_for_each_run_of_equal_factors() -> None:
    edits = DIRECTION.steer(2, schedule=[1, 1, 0.5, 0, 0, -1])
    assert [str(edit) for edit in edits] == [
        "resid_post.3[steps :2] := act + 2·tensor(2)",
        "resid_post.3[steps 2] := act + tensor(2)",
        "resid_post.3[steps 5:] := act + -2·tensor(2)",
    ]
    assert [str(edit) for edit in DIRECTION.steer(1.5)] == ["resid_post.3 := act + 1.5·tensor(2)"]
    assert str(DIRECTION.remove(steps=0)) == "resid_post.3[steps 0] := project_out(act, tensor(2))"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"coefficient": 0}, "coefficient"),
        ({"schedule": []}, "schedule"),
        ({"schedule": [0, 0]}, "schedule"),
        ({"schedule": [1, float("nan")]}, "schedule"),
        ({"schedule": [1], "steps": 0}, "steps"),
    ],
)
def test_steering_by_nothing_is_an_error(arguments: dict, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        DIRECTION.steer(**arguments)
    assert caught.value.field == field


# Files.


def test_a_file_keeps_directions_and_where_they_come_from(tmp_path: Path) -> None:
    other = Direction(Point("resid_post", 10), np.array([1, 0], np.float32))
    saved = Directions({"resid_post.3": DIRECTION, "resid_post.10": other}, {"method": "probe", "positive": ["a"]})
    saved.save(tmp_path / "d.safetensors")
    loaded = Directions.load(tmp_path / "d.safetensors")
    assert list(loaded) == ["resid_post.3", "resid_post.10"]  # by layer, not by letter
    assert loaded.provenance == saved.provenance
    assert loaded["resid_post.3"].separation == DIRECTION.separation
    assert loaded["resid_post.3"].middle == 1
    assert np.isnan(loaded["resid_post.10"].middle)
    np.testing.assert_array_equal(loaded["resid_post.3"].vector, DIRECTION.vector)
    assert loaded.best.point.layer == 3
    np.testing.assert_array_equal(load_file(tmp_path / "d.safetensors")["resid_post.10"], [1, 0])
    with pytest.raises(UnknownSiteError, match=r"nearest: resid_post\.3"):
        loaded["resid_post.4"]


def test_a_file_of_another_tool_says_its_points_by_name(tmp_path: Path) -> None:
    save_file({"blocks.5.hook_resid_post": np.ones(4, np.float16)}, tmp_path / "d.safetensors")
    found = Directions.load(tmp_path / "d.safetensors")["blocks.5.hook_resid_post"]
    assert found.point == Point("resid_post", 5)
    assert found.separation.count == 0


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"resid_post.1": np.ones((2, 2), np.float32)}, "no vector"),
        ({"resid_post.1": np.zeros(2, np.float32)}, "all are 0"),
        ({"resid_post.1": np.array([1, np.inf], np.float32)}, "finite"),
        ({"nonsense": np.ones(2, np.float32)}, "names no point"),
    ],
)
def test_what_is_no_direction_is_an_error(tmp_path: Path, arrays: dict, says: str) -> None:
    save_file(arrays, tmp_path / "d.safetensors")
    with pytest.raises(DataConversionError, match=says) as caught:
        Directions.load(tmp_path / "d.safetensors")
    assert caught.value.field == "path"


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataConversionError, match="No such file"):
        Directions.load(tmp_path / "absent")
    (tmp_path / "text").write_text("directions")
    with pytest.raises(DataConversionError, match="no safetensors"):
        Directions.load(tmp_path / "text")
    newer = {"neuroscope_directions": json.dumps({"format": 2})}
    save_file({"resid_post.1": np.ones(2, np.float32)}, tmp_path / "newer", metadata=newer)
    with pytest.raises(DataConversionError, match="format 2"):
        Directions.load(tmp_path / "newer")
