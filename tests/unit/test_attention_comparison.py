"""Patterns of two prompts: which positions belong together, and how far rows are apart, against scipy.

python -m pytest tests/unit/test_attention_comparison.py
"""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_comparison_pb2 as pb
from neuroscope_analysis.attention.patterns import NO_KEY, PatternChunk
from neuroscope_analysis.comparison.alignment import align
from neuroscope_analysis.comparison.divergence import AlignedRows, Divergences

HEADS = 3


def patterns(length: int, seed: int) -> Any:
    raw = np.tril(np.exp(2 * np.random.default_rng(seed).standard_normal((HEADS, length, length))))
    return (raw / raw.sum(-1, keepdims=True)).astype(np.float32)


def chunk(weights: Any, first: int, last: int) -> PatternChunk:
    return PatternChunk(weights[:, first:last, :last], np.arange(first, last), np.arange(last))


def test_equally_long_prompts_are_aligned_by_positions_others_by_tokens() -> None:
    same = align([1, 2, 3], [1, 9, 3], pb.ALIGNMENT_UNSPECIFIED)
    assert (same.kind, same.first.tolist(), same.second.tolist()) == (pb.ALIGNMENT_POSITIONS, [0, 1, 2], [0, 1, 2])
    longer = align([1, 2, 3, 4], [1, 7, 8, 2, 3, 5, 4], pb.ALIGNMENT_UNSPECIFIED)
    assert (longer.kind, longer.first.tolist(), longer.second.tolist()) == (
        pb.ALIGNMENT_TOKENS,
        [0, 1, 2, 3],
        [0, 3, 4, 6],
    )
    assert align([1, 2], [1, 3], pb.ALIGNMENT_TOKENS).first.tolist() == [0]


@pytest.mark.parametrize(
    ("first", "second", "wanted", "says"),
    [
        ([1, 2], [1, 2, 3], pb.ALIGNMENT_POSITIONS, "2 and 3 tokens"),
        ([1, 2], [3, 4, 5], pb.ALIGNMENT_TOKENS, "no token in common"),
        ([1, 2], [1, 2], 7, "no alignment of number 7"),
    ],
)
def test_alignments_that_there_are_not(first: list[int], second: list[int], wanted: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        align(first, second, wanted)
    assert caught.value.field == "alignment"


def test_divergences_are_their_definitions_of_aligned_rows() -> None:
    """Of prompts of other lengths: weight on what is not aligned is one further place."""
    one, other = patterns(5, 0), patterns(7, 1)
    first, second = np.array([0, 1, 3, 4]), np.array([0, 2, 3, 6])
    rows = [AlignedRows(queries, queries, 1, HEADS) for queries in (first, second)]
    for start in (0, 2, 4):
        rows[0].add(0, chunk(one, start, min(start + 2, 5)))
    rows[1].add(0, chunk(other, 0, 7))
    found = Divergences(2, HEADS + 1, 4)
    found.add(0, *(each.layer_rows(0)[:, :3] for each in rows))
    assert np.isnan(found.arrays()["jensen_shannon"]).all(), "a row is missing"
    found.add(0, *(each.layer_rows(0)[:, 3:] for each in rows))
    shannon, variation = found.arrays()["jensen_shannon"], found.arrays()["total_variation"]
    for head in range(HEADS):
        expected: list[tuple[float, float]] = []
        for left, right in zip(first, second, strict=True):
            p, q = one[head, left, first].astype(float), other[head, right, second].astype(float)
            p, q = np.append(p, max(1 - p.sum(), 0)), np.append(q, max(1 - q.sum(), 0))
            expected.append((jensenshannon(p, q) ** 2, np.abs(p - q).sum() / 2))
        assert shannon[0, head] == pytest.approx(np.mean([each[0] for each in expected]), abs=1e-5)
        assert variation[0, head] == pytest.approx(np.mean([each[1] for each in expected]), abs=1e-5)
    assert np.isnan(shannon[1]).all()
    assert np.isnan(shannon[0, HEADS])


def test_rows_of_a_rotating_cache_are_where_they_say() -> None:
    weights = patterns(6, 0)
    places = np.arange(6)
    plain, turned = (AlignedRows(places, places, 1, HEADS) for _ in range(2))
    plain.add(0, chunk(weights, 0, 6))
    order = [*np.random.default_rng(1).permutation(6).tolist(), NO_KEY]
    mixed = np.concatenate([weights[:, :, order[:-1]], np.zeros_like(weights[:, :, :1])], axis=2)
    turned.add(0, PatternChunk(mixed, places, np.array(order)))
    np.testing.assert_allclose(turned.layer_rows(0), plain.layer_rows(0), atol=1e-6)
