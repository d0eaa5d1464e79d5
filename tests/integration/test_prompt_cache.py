"""Prompts that begin alike: what was read before is not read again, unless somebody wants to see it.

python -m pytest tests/integration/test_prompt_cache.py
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.transport import GrpcTransport
from tests.support import tracing
from tests.support.compare import relative_error
from tests.support.following import Follower
from tests.support.random_models import make_model
from tests.support.recording import Recording, generate_request, prompt, record
from tests.support.services import inference_service

FAMILIES = ("llama", "gpt2", "gemma3_text", "qwen3_moe")
FIELDS: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True}
TOLERANCE = 1e-5
MIXTURE_TOLERANCE = 3e-5  # random experts weigh what a router's last bits decide


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("families")
    return [make_model(family, root / family) for family in FAMILIES]


@pytest.fixture(scope="module")
def forgetful(folders: list[Path]) -> Iterator[GrpcTransport]:
    """A service that keeps no prompts."""
    with inference_service(*folders) as service:
        transport = GrpcTransport(service.target)
        yield transport
        transport.close()


@pytest.fixture(scope="module")
def remembering(folders: list[Path]) -> Iterator[GrpcTransport]:
    """A service that keeps prompts."""
    with inference_service(*folders, arguments=("--prompt-cache-bytes", "500000000")) as service:
        transport = GrpcTransport(service.target)
        yield transport
        transport.close()


@pytest.fixture
def turn(request: pytest.FixtureRequest) -> list[int]:
    """A prompt of ten tokens that no other test begins with."""
    draws = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    return draws.integers(5, 500, 10).tolist()


def computed(transport: GrpcTransport, request: pb.GenerateRequest) -> tuple[Recording, int]:
    """A generation, and how many positions of its prompt were computed."""
    with tracing.traced() as (trace_id, _):
        recording = record(transport, request)
    spans = [span for span in tracing.spans(transport, trace_id) if span.name == "prefill"]
    return recording, sum(int(tracing.attributes(span)["neuroscope.tokens"]) for span in spans)


def conversation(transport: GrpcTransport, model_id: str, turn: list[int]) -> list[tuple[Recording, int]]:
    """Three turns, each of which begins with all that was said before."""
    turns: list[tuple[Recording, int]] = []
    ids = list(turn)
    for seed in range(3):
        request = generate_request(prompt(ids), model_id=model_id, **FIELDS, temperature=1.0, seed=seed)
        recording, positions = computed(transport, request)
        turns.append((recording, positions))
        ids += [*recording.token_ids(), 33 + seed, 7]
    return turns


@pytest.mark.parametrize("model_id", FAMILIES)
def test_a_conversation_is_read_once(
    remembering: GrpcTransport, forgetful: GrpcTransport, model_id: str, turn: list[int]
) -> None:
    with_cache = conversation(remembering, model_id, turn)
    without = conversation(forgetful, model_id, turn)
    assert [positions for _, positions in without] == [10, 18, 26]
    assert [positions for _, positions in with_cache] == [10, 3, 3]  # the last token, which was not read, and two new
    for (found, _), (expected, _) in zip(with_cache, without, strict=True):
        assert found.token_ids() == expected.token_ids()
        for token, other in zip(found.tokens, expected.tokens, strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("model_id", FAMILIES)
@pytest.mark.parametrize("site", ["resid_post", "key", "attention_pattern"])
def test_no_position_is_hidden_from_a_capture(
    remembering: GrpcTransport, forgetful: GrpcTransport, model_id: str, site: str, turn: list[int]
) -> None:
    warm = generate_request(prompt(turn), model_id=model_id, **FIELDS)
    record(remembering, warm)
    request = generate_request(prompt(turn), site, model_id=model_id, **FIELDS)
    found, positions = computed(remembering, request)
    assert positions == len(turn)
    assert_same(found, record(forgetful, request))


@pytest.mark.parametrize("model_id", FAMILIES)
def test_a_capture_of_the_end_needs_only_the_end(
    remembering: GrpcTransport, forgetful: GrpcTransport, model_id: str, turn: list[int]
) -> None:
    record(remembering, generate_request(prompt(turn), model_id=model_id, **FIELDS))
    longer = [*turn, 3, 4, 5, 6]
    hooks = [Hook("resid_post", positions=[-2, -1]), Hook("mlp_out", steps=slice(2, None))]
    request = generate_request(prompt(longer), *hooks, model_id=model_id, **FIELDS)
    found, positions = computed(remembering, request)
    if model_id != "gemma3_text":  # a ring that went on cannot be wound back
        assert positions == 4
    assert_same(found, record(forgetful, request))


def test_edits_neither_use_nor_leave_a_prompt(
    remembering: GrpcTransport, forgetful: GrpcTransport, turn: list[int]
) -> None:
    zero = intervention_pb2.Intervention()
    zero.site.component, zero.site.layer, zero.value.constant = "mlp_out", 1, 0.0
    edited = generate_request(prompt(turn), interventions=[zero], **FIELDS)
    plain = generate_request(prompt(turn), **FIELDS)
    first, positions = computed(remembering, edited)
    assert positions == len(turn)
    unedited, positions = computed(remembering, plain)
    assert positions == len(turn), "nothing of the edited one was kept"
    again, positions = computed(remembering, edited)
    assert positions == len(turn), "nothing of the plain one was taken"
    assert again.token_ids() == first.token_ids() != unedited.token_ids()
    assert unedited.token_ids() == record(forgetful, plain).token_ids()


def test_rows_of_a_batch_leave_their_prompts_too(
    remembering: GrpcTransport, forgetful: GrpcTransport, turn: list[int]
) -> None:
    prompts = [[*turn[:index], 100 + index, *turn[index:]] for index in range(4)]
    followers = [Follower(remembering, generate_request(prompt(ids), **FIELDS)) for ids in prompts]
    for follower in followers:
        follower.wait()
    for ids in prompts:
        request = generate_request(prompt([*ids, 1, 2]), **FIELDS)
        found, positions = computed(remembering, request)
        assert positions <= 3
        assert found.token_ids() == record(forgetful, request).token_ids()


def assert_same(found: Recording, expected: Recording) -> None:
    assert found.token_ids() == expected.token_ids()
    arrays = found.arrays()
    for point, array in expected.arrays().items():
        assert arrays[point].shape == array.shape
        assert found.started is not None
        tolerance = MIXTURE_TOLERANCE if "moe" in found.started.model_id else TOLERANCE
        assert relative_error(arrays[point], array) < tolerance, point
