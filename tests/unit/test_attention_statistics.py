"""Statistics and scores of attention patterns against their definitions, written out.

python -m pytest tests/unit/test_attention_statistics.py
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope_analysis.attention.patterns import NO_KEY, PatternChunk
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.sequence_scores import SequenceScores
from neuroscope_analysis.attention.statistics import STATISTICS, PromptStatistics

HEADS = 3
IDS = [9, 4, 7, 4, 9, 4, 7, 5]


def patterns(length: int, seed: int = 0, sink: float = 0.0) -> NDArray[np.float32]:
    """Random causal patterns (head, query, key) whose rows add up to 1 - sink."""
    raw = np.tril(np.exp(2 * np.random.default_rng(seed).standard_normal((HEADS, length, length))))
    return (raw / raw.sum(-1, keepdims=True) * (1 - sink)).astype(np.float32)


def chunk(weights: NDArray[np.float32], first: int = 0, last: int | None = None) -> PatternChunk:
    """Some queries, with the keys that they see."""
    end = weights.shape[1] if last is None else last
    return PatternChunk(weights[:, first:end, :end], np.arange(first, end), np.arange(end))


def described(weights: NDArray[np.float32], *chunks: PatternChunk) -> dict[str, NDArray[np.float32]]:
    found = PromptStatistics(IDS, 1, HEADS)
    for each in chunks or (chunk(weights),):
        found.add(0, each)
    return {name: found.array(name)[0] for name in STATISTICS}


def head_detector(weights: NDArray[np.float32], kind: str, measure: str = "mul") -> NDArray[np.float64]:
    """TransformerLens' detection patterns and its scores, after its documentation, one head at a time."""
    count = len(IDS)
    tokens = np.array(IDS)
    same = np.tril((tokens[:, None] == tokens[None, :]).astype(float))
    np.fill_diagonal(same, 0)
    if kind == "previous_token":
        wanted = np.eye(count, k=-1)
    elif kind == "duplicate_token":
        wanted = same
    else:
        wanted = np.roll(same, 1, axis=1)
        wanted[:, 0] = 0
        wanted = np.tril(wanted)
    if measure == "abs":
        return np.array([1 - np.abs(head - wanted).sum() / count for head in weights.astype(float)])
    return np.array([(head * wanted).sum() / head.sum() for head in weights.astype(float)])


@pytest.mark.parametrize("sink", [0.0, 0.3])
def test_statistics_are_their_definitions(sink: float) -> None:
    weights = patterns(len(IDS), sink=sink)
    p = weights.astype(float) / weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0).sum(-1)  # (head, query)
    queries = np.arange(len(IDS))
    found = described(weights)
    expected = {
        "entropy": entropy.mean(1),
        "normalised_entropy": (entropy[:, 1:] / np.log(queries[1:] + 1)).mean(1),
        "distance": (p * (queries[:, None] - queries[None, :])).sum(-1).mean(1),
        "first_token": weights[:, 1:, 0].mean(1),
        "focus": weights.max(-1).mean(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    for kind in ("previous_token", "duplicate_token", "induction"):
        np.testing.assert_allclose(found[f"{kind}_detector"], head_detector(weights, kind), rtol=1e-5, err_msg=kind)
        missed = head_detector(weights, kind, "abs")
        np.testing.assert_allclose(found[f"{kind}_detector_abs"], missed, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_chunks_add_up_to_the_whole() -> None:
    weights = patterns(len(IDS))
    whole, parts = described(weights), described(weights, *(chunk(weights, i, i + 2) for i in range(0, len(IDS), 2)))
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-5, err_msg=name)


def test_keys_of_a_rotating_cache_are_where_they_say() -> None:
    """In another order, with an empty slot whose weight is 0."""
    weights = patterns(len(IDS))
    order = [*np.random.default_rng(1).permutation(len(IDS)).tolist(), NO_KEY]
    turned = np.concatenate([weights[:, :, order[:-1]], np.zeros_like(weights[:, :, :1])], axis=2)
    whole = described(weights)
    found = described(weights, PatternChunk(turned, np.arange(len(IDS)), np.array(order)))
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_keys_that_a_window_has_left_behind_are_missed() -> None:
    """A detection pattern wants them, and the cache does not hold them any more."""
    weights = np.triu(patterns(len(IDS)), -2)
    whole = described(weights, chunk(weights, 0, 4), chunk(weights, 4))
    last = PatternChunk(weights[:, 4:, 2:], np.arange(4, len(IDS)), np.arange(2, len(IDS)))
    found = described(weights, chunk(weights, 0, 4), last)
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_a_head_that_a_layer_lacks_is_no_number() -> None:
    found = PromptStatistics(IDS, 2, HEADS + 1)
    found.add(1, chunk(patterns(len(IDS))))
    entropy = found.array("entropy")
    assert np.isnan(entropy[0]).all()
    assert np.isnan(entropy[1, HEADS])
    assert np.isfinite(entropy[1, :HEADS]).all()


# ------------------------------------------------------------------------------------------------ roles

MODEL = inference_pb2.Model(vocab_size=100, context_length=64, bos_token_id=3, eos_token_ids=[4])


def blocks(**fields: Any) -> RepeatedSequences:
    wanted: dict[str, Any] = {"count": 3, "block_length": 6, **fields}
    return RepeatedSequences.draw(pb.RandomSequences(**wanted), MODEL)


def test_sequences_are_a_block_twice_behind_the_beginning() -> None:
    found = blocks(seed=5)
    assert len(found.ids) == len(found.references) == 3
    for ids in (*found.ids, *found.references):
        assert ids[0] == 3
        assert ids[1:7] == ids[7:]
        assert len(set(ids[1:7])) == 6
        assert not {3, 4} & set(ids[1:])
    assert found.ids == blocks(seed=5).ids
    assert found.ids != blocks(seed=6).ids
    assert list(found.second_block) == list(range(7, 13))
    assert list(found.predictable) == list(range(7, 12))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"block_length": 3}, "sequences.block_length"),
        ({"block_length": 32}, "sequences.block_length"),  # 65 tokens, and the context has 64
        ({"count": 1}, "sequences.count"),
        ({"count": 1000}, "sequences.count"),
        ({"token_ids": [1, 2, 100]}, "sequences.token_ids"),
        ({"token_ids": [1, 2, 3], "block_length": 0}, "sequences.token_ids"),
    ],
)
def test_sequences_that_cannot_be_made(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        blocks(**fields)
    assert caught.value.field == field


def test_each_role_is_scored_on_its_own_pattern() -> None:
    sequences = blocks(block_length=10)
    length, block = sequences.length, sequences.block_length
    queries = np.arange(length)
    attended = {
        pb.HEAD_ROLE_PREVIOUS_TOKEN: np.maximum(queries - 1, 0),
        pb.HEAD_ROLE_DUPLICATE_TOKEN: np.where(queries > block, queries - block, queries // 2),
        pb.HEAD_ROLE_INDUCTION: np.where(queries > block, queries - block + 1, queries // 2),
        pb.HEAD_ROLE_FIRST_TOKEN_SINK: np.zeros_like(queries),
        pb.HEAD_ROLE_POSITIONAL: np.maximum(queries - 4, 0),
    }
    weights = np.zeros((len(attended) + 1, length, length), np.float32)
    for head, keys in enumerate(attended.values()):
        weights[head, queries, keys] = 1
    weights[-1] = np.tril(np.ones((length, length))) / (queries + 1)[:, None]
    found = SequenceScores(sequences, 0, 1, len(weights))
    found.add(0, chunk(weights, 0, 5))
    found.add(0, chunk(weights, 5))
    scores = found.scores()
    for head, role in enumerate((*attended, pb.HEAD_ROLE_UNIFORM)):
        assert scores[role][0, head] == pytest.approx(1.0), pb.HeadRole.Name(role)
        others = np.delete(scores[role][0], head)
        assert others.max() < 0.9, pb.HeadRole.Name(role)
    assert found.peak_distances()[0, 4] == 4
