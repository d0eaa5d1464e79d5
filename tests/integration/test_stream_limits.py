"""Streams beyond the limits are refused over gRPC, and the others go on.

python -m pytest tests/integration/test_stream_limits.py
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from neuroscope.errors import ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support.following import Follower
from tests.support.recording import capture_request, generate_request, prompt, record
from tests.support.services import inference_service

IDS = [0, 50, 60, 70]
LIMIT = 3


@pytest.fixture(scope="module", params=["max_streams_per_client", "max_streams"])
def setting(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def target(llama_dir: Path, setting: str) -> Iterator[str]:
    flag = f"--{setting.replace('_', '-')}"
    with inference_service(llama_dir, arguments=(flag, str(LIMIT))) as service:
        yield service.target


@pytest.fixture
def transports(target: str) -> Iterator[list[GrpcTransport]]:
    """Two connections: a client that opens another is still the same."""
    transports = [GrpcTransport(target), GrpcTransport(target)]
    yield transports
    for transport in transports:
        transport.close()


def request(**fields: Any) -> pb.GenerateRequest:
    return generate_request(prompt(IDS), max_tokens=20, ignore_eos=True, **fields)


def test_one_too_many_is_refused_and_the_others_end_whole(transports: list[GrpcTransport], setting: str) -> None:
    alone = record(transports[0], request()).token_ids()
    running = [Follower(transports[i % 2], request(max_steps_ahead=1, generation_id=str(i))) for i in range(LIMIT)]
    for follower in running:
        assert follower.next_token() is not None
    for refused in (request(), capture_request(prompt(IDS), "embed")):
        for transport in transports:
            with pytest.raises(ResourceExhaustedError, match=rf"^{LIMIT} streams .* {setting} ") as caught:
                record(transport, refused)
            assert "wait for one to end" in caught.value.message
    listed: Any = transports[0].unary(RPCS["ListModels"], pb.ListModelsRequest())
    assert len(listed.models) == 1  # what is no stream is not counted
    for index, follower in enumerate(running):
        advance = pb.AdvanceGenerationRequest(generation_id=str(index), steps=100)
        transports[0].unary(RPCS["AdvanceGeneration"], advance)
        assert follower.wait().token_ids() == alone
    assert record(transports[0], request()).token_ids() == alone


def test_a_reader_that_leaves_makes_room(transports: list[GrpcTransport]) -> None:
    for _ in range(2):
        with ExitStack() as leaving:
            for _ in range(LIMIT):
                follower = Follower(transports[0], request(max_steps_ahead=1))
                leaving.callback(follower.close)
                assert follower.next_token() is not None
            with pytest.raises(ResourceExhaustedError):
                record(transports[1], request())
        deadline = time.monotonic() + 10
        while True:
            try:
                record(transports[1], request())
                break
            except ResourceExhaustedError:  # the service has not heard of it yet
                assert time.monotonic() < deadline
                time.sleep(0.05)
        time.sleep(0.1)
