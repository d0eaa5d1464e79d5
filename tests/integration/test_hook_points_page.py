"""Every module of mlx-lm is hooked and proved, and docs/hook_points.md says what came of it.

python -m pytest tests/integration/test_hook_points_page.py
"""

import time

import mlx.core as mx
import pytest
from mlx_lm.utils import MODEL_REMAPPING

from neuroscope.vocabulary.sites import COMPONENTS
from scripts.make_hook_points import FAMILIES, PAGE, REASONS, page
from tests.support.module_sweep import Proved, prove
from tests.support.tiny_configs import modules

pytestmark = pytest.mark.skipif(mx.metal.is_available(), reason="the page is that of the CPU backend")


@pytest.fixture(scope="module")
def swept() -> tuple[list[Proved], float]:
    """Every module, and the CPU seconds that it took."""
    started = time.process_time()
    return [prove(module) for module in modules()], time.process_time() - started


def test_at_least_ninety_modules_have_stream_attention_and_mlp_proved(swept: tuple[list[Proved], float]) -> None:
    proved, seconds = swept
    assert sum(p.is_complete for p in proved) >= 90
    assert seconds < 60


def test_every_other_module_has_a_reason(swept: tuple[list[Proved], float]) -> None:
    for p in swept[0]:
        assert bool(p.failure) != bool(p.components), p.module
        missing = set(COMPONENTS) - set(p.components)
        assert p.failure or missing <= set[str]().union(*p.reasons.values()), p.module


def test_abbreviated_reasons_occur(swept: tuple[list[Proved], float]) -> None:
    assert set(REASONS) <= set[str]().union(*(p.reasons for p in swept[0]))


def test_the_page_is_what_the_script_makes(swept: tuple[list[Proved], float]) -> None:
    """Fails where a module newly works or newly fails: run `python -m scripts.make_hook_points`."""
    families = [prove(MODEL_REMAPPING.get(family, family), family) for family in FAMILIES]
    made, committed = page(swept[0], families).splitlines(), PAGE.read_text().splitlines()
    assert [line for line in made if line not in committed] == []
    assert made == committed
