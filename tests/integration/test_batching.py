"""Generations that decode together: each as if it were alone, whatever the others do.

python -m pytest tests/integration/test_batching.py
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support import tracing
from tests.support.compare import relative_error
from tests.support.following import Follower
from tests.support.random_models import make_model
from tests.support.recording import Recording, generate_request, prompt, record
from tests.support.services import inference_service

FAMILIES = ("llama", "gpt2", "qwen3_moe", "gemma3_text", "gpt_oss", "cohere2", "mixtral", "gpt_neox", "olmo2")
PARALLEL = ("gpt_neox", "cohere2")  # no stream between attention and MLP
PROMPTS = ("When Alice and Bob went to the park", "Once", "The capital of France is", "Once upon a time, long ago,")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcTransport]:
    folder = tmp_path_factory.mktemp("families")
    with inference_service(*(make_model(family, folder / family) for family in FAMILIES)) as service:
        channel = GrpcTransport(service.target)
        yield channel
        channel.close()


def requests(model_id: str) -> list[pb.GenerateRequest]:
    """Eight that differ in prompt, hooks, sampling and length."""
    hooks: list[tuple[Any, ...]] = [
        ("resid_post",),
        ("attention_pattern", "attention_scores"),
        (),
        (Hook("mlp_out", dtype="bfloat16"), "query"),
        (Hook("resid_post", positions=-1), Hook("resid_mid", steps=slice(2, 5))),
        ("key", "value", "head_output"),
        ("logits",),
        ("resid_pre", "final_norm"),
    ]
    return [
        generate_request(
            prompt(PROMPTS[index % len(PROMPTS)]),
            *(
                hook
                for hook in chosen
                if not (model_id == "gpt_neox" or model_id == "cohere2") or "mid" not in str(hook)
            ),
            model_id=model_id,
            max_tokens=5 + 2 * index,
            ignore_eos=True,
            seed=index,
            temperature=1.0 if index % 2 else 0.0,
        )
        for index, chosen in enumerate(hooks)
    ]


def assert_same(together: Recording, alone: Recording) -> None:
    assert together.token_ids() == alone.token_ids()
    assert together.text() == alone.text()
    assert len(together.pieces) == len(alone.pieces)
    for one, other in zip(together.pieces, alone.pieces, strict=True):
        assert (one.spec, one.step, one.first_position) == (other.spec, other.step, other.first_position)
        assert list(one.key_positions) == list(other.key_positions)
        assert one.array.shape == other.array.shape
        tolerance = 1e-2 if one.array.dtype.name == "bfloat16" else TOLERANCE
        a, b = one.array.astype(np.float64), other.array.astype(np.float64)
        assert relative_error(a, b) < tolerance, (one.spec.hook_id, one.step)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_as_if_it_were_alone(transport: GrpcTransport, family: str) -> None:
    alone = [record(transport, request) for request in requests(family)]
    followers = [Follower(transport, request) for request in requests(family)]
    for follower, expected in zip(followers, alone, strict=True):
        assert_same(follower.wait(), expected)


def test_rows_leave_a_batch_and_come_back(transport: GrpcTransport) -> None:
    """Two that are paced by their readers, in and out of the batch of two that are not."""
    hooks = ("resid_post", "attention_pattern", "key")

    def request(index: int, **fields: Any) -> pb.GenerateRequest:
        fields = {"max_tokens": 10, "ignore_eos": True, "seed": index, "temperature": 1.0} | fields
        return generate_request(prompt(PROMPTS[index]), *hooks, **fields)

    alone = [record(transport, request(index)) for index in range(4)]
    long = {"max_tokens": 200}
    running = [Follower(transport, request(index, **long)) for index in (0, 1)]
    paced = [Follower(transport, request(i, max_steps_ahead=1, generation_id=f"paced {i}")) for i in (2, 3)]
    for step in range(10):
        for index, follower in zip((2, 3), paced, strict=True):
            token = follower.next_token()
            assert token is not None
            assert token.step == step
            if step < 9:
                advance = pb.AdvanceGenerationRequest(generation_id=f"paced {index}", steps=1)
                transport.unary(RPCS["AdvanceGeneration"], advance)
    for follower, expected in zip(paced, alone[2:], strict=True):
        assert_same(follower.wait(), expected)
    for follower, expected in zip(running, alone[:2], strict=True):
        assert follower.wait().token_ids()[:10] == expected.token_ids()


def test_rows_of_one_request_decode_together(transport: GrpcTransport) -> None:
    """And each is what its prompt alone gives."""
    hooks = ("resid_post", "attention_scores", "mlp_neurons")
    fields: dict[str, Any] = {"max_tokens": 8, "ignore_eos": True}
    together = record(transport, generate_request([prompt(text) for text in PROMPTS], *hooks, **fields))
    for row, text in enumerate(PROMPTS):
        alone = record(transport, generate_request(prompt(text), *hooks, **fields))
        assert together.token_ids(row) == alone.token_ids()
        for point, expected in alone.arrays().items():
            found = together.arrays(row)[point]
            masked = point[0] == "attention_scores"
            assert relative_error(found, expected, exclude_masked=masked) < TOLERANCE, point


def test_a_short_request_among_long_ones_begins_within_two_steps(transport: GrpcTransport) -> None:
    """By the engine's own clock: steps that the others make between the request's arrival and its token."""
    with tracing.traced() as (others, _):
        long = [
            Follower(transport, generate_request(prompt(text), max_tokens=400, ignore_eos=True, seed=seed))
            for seed in range(2)
            for text in PROMPTS
        ]
        for follower in long:
            assert follower.next_token() is not None
    with tracing.traced() as (mine, _):
        assert len(record(transport, generate_request(prompt("Once"), max_tokens=1)).token_ids()) == 1
    arrived = tracing.ended_span(transport, mine, "Generate").start_time_unix_nano
    answered = tracing.ended_span(transport, mine, "sample").end_time_unix_nano
    decoded = [span for span in tracing.spans(transport, others) if span.name == "decode"]
    between = [span for span in decoded if arrived < span.start_time_unix_nano < answered]
    assert len(between) <= 2 * len(long)
    for follower in long:
        follower.close()
