"""When causal tests end, and what chance gives.  Run: .venv/bin/python -m pytest tests/unit/test_sequential_test.py"""

import numpy as np
import pytest

from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis import significance
from neuroscope_analysis.attention.copied_tokens import LEAST_SHARE, TokenSample
from neuroscope_analysis.attention.sequential_test import SequentialTest, looks


def test_looks_end_with_all_sequences() -> None:
    assert [looks(count) for count in (2, 7, 8, 16, 64)] == [[2], [7], [4, 8], [4, 16], [4, 16, 64]]


def test_moderated_variances_are_drawn_towards_a_common_one() -> None:
    """Equal true variances become nearly equal, and keep their mean; very different ones are left alone."""
    random = np.random.default_rng(0)
    equal = random.standard_normal((4, 300)).var(axis=0, ddof=1)
    moderated, freedom = significance.moderated_variances(equal, 3)
    assert freedom > 30
    assert moderated.std() < equal.std() / 5
    assert moderated.mean() == pytest.approx(1.0, abs=0.15)
    different = equal * 10.0 ** random.uniform(-4, 4, 300)
    moderated, freedom = significance.moderated_variances(different, 3)
    assert freedom < 4
    assert np.corrcoef(np.log(moderated), np.log(different))[0, 1] > 0.9


@pytest.mark.parametrize(("true", "passes"), [(0.003, False), (0.05, True)])
def test_clear_divergences_end_at_the_first_look(true: float, passes: bool) -> None:
    random = np.random.default_rng(1)
    changes = true * np.exp(0.3 * random.standard_normal((4, 100)))
    test = SequentialTest(0.01, 0.01 / 200, 0.0, 0)
    decided = test.decided(changes, positive=True)
    assert decided.mean() > 0.9
    for index in np.flatnonzero(decided):
        evidence = test.evidence(pb.CAUSAL_PROBE_ABLATED, changes[:, index], is_last=False)
        assert evidence.is_passed == passes
        assert (evidence.bound, evidence.sequence_count) == ("the least effect", 4)


def test_divergences_at_the_bound_are_hardly_ever_decided_early() -> None:
    """In 500 analyses, each of 50 heads whose mean divergence is the bound itself."""
    random = np.random.default_rng(2)
    test = SequentialTest(0.01, 0.05 / 50, 0.0, 0)
    spread = 0.4
    found = 0
    for _ in range(500):
        changes = 0.01 * np.exp(spread * random.standard_normal((4, 50)) - spread**2 / 2)
        decided = test.decided(changes, positive=True)
        found += bool((decided & (changes.mean(axis=0) > 0.01)).any())
    assert found / 500 < 0.07


def test_random_heads_copy_no_tokens_and_one_that_copies_copies_all() -> None:
    random = np.random.default_rng(3)
    embedding = random.standard_normal((1000, 64)).astype(np.float32)
    sample = TokenSample.draw(range(1000), seed=0)
    read, unembedding = sample.centred_embeddings(embedding), embedding[sample.ids].T
    shares = [
        sample.shares(
            read,
            random.standard_normal((64, 16)).astype(np.float32),
            random.standard_normal((16, 64)).astype(np.float32),
            unembedding,
        )
        for _ in range(30)
    ]
    assert np.max(shares) < LEAST_SHARE / 10
    eye = np.eye(64, dtype=np.float32)
    assert sample.shares(read, eye, eye, unembedding)[0] > 0.99
    assert sample.shares(read, eye, -eye, unembedding)[1] > 0.99
    assert sample.shares(read, eye, 0 * eye, unembedding) == (0.0, 0.0)
    assert sample.comparison(0.6, pb.HEAD_ROLE_COPYING).null_value == 1 / 1000
