"""Functions of Python as metrics, in the engine's process and refused elsewhere.

python -m pytest tests/integration/test_python_metrics.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client, errors
from neuroscope.experiments import logit_diff, python_metric
from tests.support.services import Service

CLEAN = [0, 141, 59, 26, 53, 58, 97, 93, 23, 84]
CORRUPTED = [0, 18, 28, 18, 28, 45, 90, 45, 23, 53]
ANSWER, OTHER = 7, 9


@pytest.fixture(scope="module")
def local(llama_dir: Path) -> Iterator[Client]:
    with Client.local(model=[str(llama_dir)]) as client:
        yield client


def difference(logits: Any) -> Any:
    return logits[..., ANSWER] - logits[..., OTHER]


def difference_in_numpy(logits: Any) -> Any:
    return difference(np.array(logits))


@pytest.mark.parametrize("function", [difference, difference_in_numpy])
@pytest.mark.parametrize("positions", [(-1,), (-3, -1)])
def test_a_function_scores_as_the_metric_that_it_spells_out(
    local: Client, function: Callable[[Any], Any], positions: tuple[int, ...]
) -> None:
    patching = local.patch(CLEAN, CORRUPTED).residual().heads()
    found = patching.run(python_metric(function).at(*positions).normalised())
    expected = patching.run(logit_diff(ANSWER, OTHER).at(*positions).normalised())
    for name in expected.names:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-4, atol=1e-4
        )  # batches may differ from run to run


def test_a_function_is_a_term_of_a_sum(local: Client) -> None:
    patching = local.patch(CLEAN, CORRUPTED).mlps()
    found = patching.run(2 * python_metric(difference) - logit_diff(ANSWER, OTHER))
    np.testing.assert_allclose(found["mlp_out"], patching.run(logit_diff(ANSWER, OTHER))["mlp_out"], atol=1e-5)


def test_a_function_is_differentiated(local: Client) -> None:
    found = local.attribute(CLEAN, CORRUPTED, metric=python_metric(difference))
    expected = local.attribute(CLEAN, CORRUPTED, metric=logit_diff(ANSWER, OTHER))
    for name in expected.names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_one_function_is_held_once() -> None:
    assert python_metric(difference).message == python_metric(difference).message
    assert python_metric(difference).message != python_metric(difference_in_numpy).message


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda logits: logits[..., ANSWER].mean(), r"made \[\] of logits \[\d+, 1, \d+\]"),
        (lambda logits: logits.no_such_thing, "raised AttributeError"),
    ],
)
def test_a_function_that_does_not_score(local: Client, function: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match=reason) as caught:
        local.patch(CLEAN, CORRUPTED).residual(layers=[0]).run(python_metric(function))
    assert caught.value.field == "metric.python_function"
    assert local.patch(CLEAN, CORRUPTED).residual(layers=[0]).run(logit_diff(ANSWER, OTHER)).names == ["resid_pre"]


def test_a_service_elsewhere_takes_no_function(inference: Service) -> None:
    with (
        Client(inference.target) as client,
        pytest.raises(errors.InvalidRequestError, match=r"Client\.local") as caught,
    ):
        client.patch(CLEAN, CORRUPTED).residual().run(python_metric(difference))
    assert caught.value.field == "metric.python_function.function_id"
