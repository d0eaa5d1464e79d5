"""The curl commands of the REST demo.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_curl.py"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import curl
from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import RunningGateway

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def run(gateway: RunningGateway, fake: FakeInference, tmp_path: Path) -> Callable[[str], Any]:
    return lambda command: curl.run(command, url=gateway.url, home=tmp_path)


def test_health(run: Callable[[str], Any]) -> None:
    assert run(curl.HEALTH)["status"] == "healthy"


def test_load_then_generate_with_activations(run: Callable[[str], Any]) -> None:
    assert run(curl.LOAD)["model_id"] == "gpt-oss-20b-q4-hi-mlx"
    answer = run(curl.WITH_ACTIVATIONS)
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    activation = answer["activations"]["test_hook"][0]
    assert list(activation) == ["hook_id", "layer_name", "component", "shape", "dtype", "is_input", "data"]
    assert (activation["layer_name"], activation["component"]) == ("transformer.h.5", "attention")


def test_register_and_clear(run: Callable[[str], Any]) -> None:
    assert run(curl.REGISTER) == {"registered_hooks": ["unique_hook_id"]}
    assert run(curl.CLEAR)["cleared_hooks"] == ["unique_hook_id"]
