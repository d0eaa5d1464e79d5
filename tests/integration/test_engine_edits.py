"""Every point of every family that can be written: what is written goes on, and writing what was read changes nothing.

python -m pytest tests/integration/test_engine_edits.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, RowEdit
from neuroscope_inference.engine.model import LoadedModel
from tests.support.compare import relative_error
from tests.support.random_models import FAMILIES

PROMPT = [0, *np.random.default_rng(3).integers(5, 500, 19).tolist()]  # longer than the windows of 16
TOLERANCE = 1e-5
LAYER = 1
READ_ONLY = {"expert_indices", "expert_weights"}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


def run(model: LoadedModel, edits: dict[PointIndex, Callable[[mx.array], mx.array]], read: PointIndex) -> Any:
    """Logits with edits at points, and what is read of one point."""
    wanted = model.layout.capture_mask([read])
    hook_plan = HookPlan(wanted, {point: [RowEdit(edit)] for point, edit in edits.items()})
    with model.layout.active_hooks.activate(hook_plan):
        logits = model.network(mx.array([PROMPT]), cache=make_prompt_cache(model.network))  # type: ignore[operator]
    return np.array(logits), np.array(hook_plan.captured[read])


def uneven(x: mx.array) -> mx.array:
    """Unlike a factor for all, this is not undone by a norm behind it."""
    return x * mx.linspace(0.25, 1.0, x.shape[-1]).astype(x.dtype)


def writable(model: LoadedModel) -> list[Point]:
    return [
        state.point
        for state in model.layout.states
        if not state.reason
        and state.is_writable
        and mx.issubdtype(state.dtype, mx.floating)
        and state.point.layer in (None, LAYER)
    ]


def test_all_that_is_read_can_be_written(model: LoadedModel) -> None:
    """But what experts were chosen, and with what weights."""
    there = {s.point for s in model.layout.states if not s.reason and s.point.layer in (None, LAYER)}
    assert {point.component for point in there - set(writable(model))} <= READ_ONLY


def test_writing_back_what_was_read_changes_nothing(model: LoadedModel) -> None:
    for point in writable(model):
        index = model.layout.index[point]
        plain, before = run(model, {}, index)
        logits, after = run(model, {index: lambda x: x * 1}, index)
        assert relative_error(logits, plain) < TOLERANCE, point
        assert relative_error(after, before) < TOLERANCE, point


def test_what_is_written_goes_on(model: LoadedModel) -> None:
    """A point is read as it was written, and the answer is another."""
    for point in writable(model):
        index = model.layout.index[point]
        plain, before = run(model, {}, index)
        logits, after = run(model, {index: uneven}, index)
        masked = point.component == "attention_scores"
        kept = before > -1e30 if masked else np.ones_like(before, dtype=bool)
        assert relative_error(after[kept], np.array(uneven(mx.array(before)))[kept]) < TOLERANCE, point
        assert relative_error(logits, plain) > 1e-4, point


def test_one_row_of_a_batch_is_written_alone(model: LoadedModel, tmp_path: Path) -> None:
    for point in writable(model):
        index = model.layout.index[point]
        plain, _ = run(model, {}, index)
        hook_plan = HookPlan(model.layout.capture_mask([]), {index: [RowEdit(uneven, slot=1)]})
        with model.layout.active_hooks.activate(hook_plan):
            network: Any = model.network
            logits = np.array(network(mx.array([PROMPT] * 3), cache=make_prompt_cache(network)))
        assert relative_error(logits[[0]], plain) < TOLERANCE, point
        assert relative_error(logits[[2]], plain) < TOLERANCE, point
        assert relative_error(logits[[1]], plain) > 1e-4, point
