"""Penalties and biases against mlx-lm's own processors, bit for bit.

python -m pytest tests/unit/test_engine_penalties.py
"""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_logits_processors
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.penalties import Penalties
from neuroscope_inference.engine.sampling import Sampler

VOCABULARY = 12
ALL = 10**6

tokens_of_a_row = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30)
penalty = st.floats(-2, 2, width=32)


def applied(logits: NDArray[Any], tokens: list[int] | None, **fields: Any) -> NDArray[Any]:
    counted = None if tokens is None else mx.array(tokens, mx.int32)
    return np.array(Penalties.from_message(pb.Sampling(**fields)).apply(mx.array(logits)[None], counted))[0]


def processed(logits: NDArray[Any], tokens: list[int], **arguments: Any) -> NDArray[Any]:
    result = mx.array(logits)[None]
    for processor in make_logits_processors(**arguments):
        result = processor(mx.array(tokens), result)
    return np.array(result)[0]


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=VOCABULARY, max_size=VOCABULARY),
    tokens=tokens_of_a_row,
    presence=penalty,
    frequency=penalty,
    repetition=st.floats(0.125, 4, width=32),
    context=st.integers(0, 40),
    bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-100, 100, width=32), max_size=4),
)
def test_they_are_those_of_mlx_lm(
    logits: list[float],
    tokens: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    context: int,
    bias: dict[int, float],
) -> None:
    vector = np.array(logits, np.float32)
    ours = applied(
        vector,
        tokens,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        penalty_context_size=context,
        logit_bias=bias,
    )
    theirs = processed(
        vector,
        tokens,
        logit_bias=bias or None,
        repetition_penalty=None if repetition == 1 else repetition,
        repetition_context_size=context or ALL,
        presence_penalty=presence,
        presence_context_size=context or ALL,
        frequency_penalty=frequency,
        frequency_context_size=context or ALL,
    )
    np.testing.assert_array_equal(ours, theirs)


def test_openais_formula() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, as OpenAI's reference writes it."""
    logits, tokens = np.linspace(-3, 3, VOCABULARY, dtype=np.float32), [1, 1, 1, 5, 11]
    counts = np.bincount(tokens, minlength=VOCABULARY)
    expected = logits - counts * 0.5 - (counts > 0) * 1.25
    found = applied(logits, tokens, presence_penalty=1.25, frequency_penalty=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_changes_where_nothing_is_asked_for_or_no_token_counts() -> None:
    logits = np.linspace(-3, 3, VOCABULARY, dtype=np.float32)
    np.testing.assert_array_equal(applied(logits, [1, 2]), logits)
    np.testing.assert_array_equal(applied(logits, None, logit_bias={3: 0.0}), logits)
    np.testing.assert_array_equal(applied(logits, [], presence_penalty=2.0), logits)


def test_a_token_counts_that_nobody_has_read_yet() -> None:
    """The engine launches a step before the token of the one before is known."""
    sampler = Sampler.from_message(pb.Sampling(presence_penalty=50))
    logits = mx.array(np.linspace(-3, 3, VOCABULARY, dtype=np.float32))[None]
    first = sampler.draw(logits, 0, 0, mx.array([2], mx.int32))
    second = sampler.draw(logits, 0, 1, mx.concatenate([mx.array([2], mx.int32), first.token.astype(mx.int32)]))
    assert second.token.item() == VOCABULARY - 2
    assert first.token.item() == VOCABULARY - 1


def test_log_probabilities_stay_those_of_the_model() -> None:
    logits = mx.array(np.linspace(-3, 3, VOCABULARY, dtype=np.float32))[None]
    plain = Sampler.from_message(pb.Sampling(top_logprobs=3)).draw(logits, 0, 0)
    biased = Sampler.from_message(pb.Sampling(top_logprobs=3, logit_bias={0: 100})).draw(logits, 0, 0)
    assert biased.token.item() == 0
    assert list(biased.alternatives()) == list(plain.alternatives())
    assert scalar(biased.logprob) < scalar(plain.logprob)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"presence_penalty": 101}, "presence_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"frequency_penalty": -math.inf}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": -1}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"logit_bias": {7: math.inf}}, "logit_bias[7]"),
        ({"logit_bias": {7: -100.5}}, "logit_bias[7]"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Sampler.from_message(pb.Sampling(**fields))
    assert caught.value.field == f"sampling.{name}"


def test_a_biased_token_must_be_there() -> None:
    penalties = Penalties.from_message(pb.Sampling(logit_bias={3: 1, VOCABULARY: 1}))
    penalties.check_vocabulary(VOCABULARY + 1)
    with pytest.raises(InvalidRequestError, match="there is no token 12") as caught:
        penalties.check_vocabulary(VOCABULARY)
    assert caught.value.field == "sampling.logit_bias[12]"
