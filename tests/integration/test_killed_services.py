"""A service that is killed at any moment, and what the next one on its spool has: all that was whole, the rest anew.

python -m pytest tests/integration/test_killed_services.py --kills 50
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from neuroscope.errors import StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire import status
from neuroscope.wire.rpc import RPCS
from tests.support.recording import capture_request, generate_request, prompt, rpc_of
from tests.support.services import Service, inference_service

SEED = 2026
CLIENTS = 3
LATEST_KILL_S = 1.5
MOST_TOKENS = 40
REREAD = 12
"""Whole streams that are read again after each kill, besides those of the service that was killed."""
Request = pb.CaptureRequest | pb.GenerateRequest


@dataclass
class Sent:
    """A resumable stream, and what its client got of it before the service died."""

    capture_id: str
    request: Request
    messages: list[bytes] = field(default_factory=list)
    """As they were on the wire."""

    @property
    def is_whole(self) -> bool:
        """Whether the manifest came: the service's word that all of it is kept."""
        return bool(self.messages) and event(self.messages[-1]).HasField("manifest")


def event(message: bytes) -> pb.ResumeCaptureResponse:
    """An event of any stream: their layouts agree."""
    return pb.ResumeCaptureResponse.FromString(message)


def messages(channel: grpc.Channel, method: str, request: Any) -> Iterator[bytes]:
    """The messages of a stream, as they are on the wire."""
    call: Any = channel.unary_stream(RPCS[method].path, RPCS[method].serialize, None)
    return iter(call(request, timeout=60))


def resumed(channel: grpc.Channel, capture_id: str, restart_token: str = "") -> list[bytes]:
    """All of a kept stream, or of a new attempt."""
    request = pb.ResumeCaptureRequest(capture_id=capture_id, restart_token=restart_token)
    return list(messages(channel, "ResumeCapture", request))


def drawn(name: str) -> Sent:
    """A resumable stream of one of many kinds; its name determines it."""
    draw = random.Random(f"{SEED} {name}")
    ids = prompt([draw.randrange(5, 500) for _ in range(draw.randrange(3, 60))])
    budget = draw.choice([0, 1, 20_000])
    if draw.random() < 0.5:
        sites = draw.sample(["resid_post", "attention_pattern", "logits"], draw.randrange(1, 4))
        return Sent(name, capture_request(ids, *sites, capture_id=name, resumable=True, chunk_budget_bytes=budget))
    request = generate_request(
        ids,
        *draw.sample(["resid_post", "logits"], draw.randrange(3)),
        generation_id=name,
        resumable=True,
        chunk_budget_bytes=budget,
        max_tokens=draw.randrange(1, MOST_TOKENS),
        temperature=draw.choice([0.0, 1.0]),
        ignore_eos=True,
    )
    return Sent(name, request)


def kill_among_streams(service: Service, channel: grpc.Channel, number: int, delay_s: float) -> list[Sent]:
    """Clients that ask for one stream after another, until the service is killed; what they asked for.

    The delay counts from the end of a first stream, since models are slow to begin with.
    """
    asked: list[Sent] = []

    def ask(name: str) -> None:
        asked.append(sent := drawn(name))
        for message in messages(channel, rpc_of(sent.request).method, sent.request):
            sent.messages.append(message)

    def ask_on(client: int) -> None:
        with suppress(grpc.RpcError):
            for count in itertools.count():
                ask(f"{number}-{client}-{count}")

    ask(f"{number}-first")
    clients = [threading.Thread(target=ask_on, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(delay_s)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    for client in clients:
        client.join()
    return asked


def check(channel: grpc.Channel, sent: Sent, kept: dict[str, int]) -> str:
    """That a stream is what it must be, in a service that has just taken the spool over; what it is."""
    if sent.is_whole:
        assert kept[sent.capture_id] == pb.CAPTURE_STATE_COMMITTED
        assert resumed(channel, sent.capture_id) == sent.messages
        return "whole"
    if sent.capture_id not in kept:
        assert not sent.messages, f"{sent.capture_id} had begun, and is lost"
        return "not begun"
    if kept[sent.capture_id] == pb.CAPTURE_STATE_COMMITTED:  # its last messages did not reach the client
        again = resumed(channel, sent.capture_id)
        assert again[: len(sent.messages)] == sent.messages
        assert event(again[-1]).HasField("manifest")
        return "whole, though its client could not know"
    assert kept[sent.capture_id] == pb.CAPTURE_STATE_BROKEN
    with pytest.raises(grpc.RpcError) as caught:
        resumed(channel, sent.capture_id)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    error = status.from_rpc_error(caught.value)
    assert isinstance(error, StreamingError)
    again = resumed(channel, sent.capture_id, error.restart_token)
    if sent.messages:  # prompts and seed; numbers may round otherwise than in the company that they had
        assert again[0] == sent.messages[0]
    manifest = event(again[-1]).manifest
    assert len(manifest.entries) >= len(sent.request.hooks)
    if isinstance(sent.request, pb.GenerateRequest):
        assert manifest.usage.completion_tokens == sent.request.sampling.max_tokens
    assert resumed(channel, sent.capture_id) == again
    return "run again"


@contextmanager
def service_on(spool: Path, model: Path) -> Generator[tuple[Service, grpc.Channel]]:
    """A service that has a spool, and a channel to it."""
    with (
        inference_service(model, arguments=("--spool-dir", str(spool))) as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        yield service, channel


def states(channel: grpc.Channel) -> dict[str, int]:
    """What the service keeps."""
    call: Any = channel.unary_unary(RPCS["ListCaptures"].path, RPCS["ListCaptures"].serialize, None)
    listed = pb.ListCapturesResponse.FromString(call(pb.ListCapturesRequest(), timeout=60))
    return {capture.capture_id: capture.state for capture in listed.captures}


@pytest.mark.timeout(1800)
def test_kills_lose_nothing_that_was_whole(
    bundled_model_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    draw, spool = random.Random(SEED), tmp_path / "spool"
    found: Counter[str] = Counter()
    whole: list[Sent] = []
    asked: list[Sent] = []
    kills = int(str(request.config.getoption("--kills")))
    for number in range(kills + 1):
        with service_on(spool, bundled_model_dir) as (service, channel):
            kept = states(channel)
            found.update(check(channel, sent, kept) for sent in asked)
            chosen = whole if number == kills else draw.sample(whole, min(REREAD, len(whole)))
            for sent in chosen:
                assert check(channel, sent, kept) == "whole"
            whole += [sent for sent in asked if sent.is_whole]
            assert "cannot be read" not in service.log or found["not begun"], service.log
            assert "Traceback" not in service.log
            if number < kills:
                asked = kill_among_streams(service, channel, number, draw.uniform(0, LATEST_KILL_S))
    print(f"{kills} kills: {dict(found)}")
    assert found["whole"]
    assert found["run again"]
