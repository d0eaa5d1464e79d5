"""What the clients make of kept streams: resumed by name, taken up where a connection broke, run again.

python -m pytest tests/integration/test_resuming_clients.py
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import AsyncClient, Client
from neuroscope.errors import NeuroScopeIntegrationError, StreamingError, UnknownIdError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.codec import Event
from neuroscope_inference.local import AsyncLocalTransport, LocalTransport

PROMPT = [0, *range(10, 40)]
SITES: list[Any] = ["resid_post", "attention_pattern", Hook("logits", reduce={"top_k": 3})]
SMALL: dict[str, Any] = {"chunk_budget_bytes": 20_000}


class Breaking(LocalTransport):
    """A connection that breaks after some events of a Capture, which the service has finished by then."""

    events = 5

    def stream(self, rpc: Any, request: Any, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """The events, or the first of them and an error."""
        if rpc.method != "Capture":
            yield from super().stream(rpc, request, timeout_s=timeout_s)
            return
        yield from list(super().stream(rpc, request, timeout_s=timeout_s))[: self.events]
        raise NeuroScopeIntegrationError("the connection broke")


class AsyncBreaking(AsyncLocalTransport):
    """As `Breaking`, for an event loop."""

    async def stream(self, rpc: Any, request: Any, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """The events, or the first of them and an error."""
        events = [event async for event in super().stream(rpc, request, timeout_s=timeout_s)]
        for event in events[: Breaking.events] if rpc.method == "Capture" else events:
            yield event
        if rpc.method == "Capture":
            raise NeuroScopeIntegrationError("the connection broke")


@pytest.fixture(scope="module")
def transport(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breaking]:
    opened = Breaking(model=[str(llama_dir)], spool_dir=str(tmp_path_factory.mktemp("spool")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(transport: Breaking) -> Client:
    return Client(transport=transport)


@pytest.fixture(scope="module")
def expected(llama_dir: Path) -> Any:
    with Client.local(model=[str(llama_dir)]) as plain:
        return plain.capture(PROMPT, SITES, **SMALL)


def assert_same(cache: Any, expected: Any) -> None:
    assert list(cache) == list(expected)
    assert cache.checksums() == expected.checksums()
    for key in expected:
        np.testing.assert_array_equal(cache[key], expected[key])


@pytest.mark.parametrize("events", [1, 2, 3, 6, 10**6])
def test_a_resumable_capture_goes_on_where_the_connection_broke(
    client: Client, transport: Breaking, expected: Any, events: int
) -> None:
    transport.events = events
    cache = client.capture(PROMPT, SITES, resumable=True, capture_id=f"events-{events}", **SMALL)
    assert_same(cache, expected)
    assert_same(client.resume_capture(f"events-{events}"), expected)


def test_without_resumable_or_a_beginning_the_error_is_the_connections(client: Client, transport: Breaking) -> None:
    transport.events = 3
    with pytest.raises(NeuroScopeIntegrationError, match="broke"):
        client.capture(PROMPT, SITES, **SMALL)
    transport.events = 0
    with pytest.raises(NeuroScopeIntegrationError, match="broke"):
        client.capture(PROMPT, SITES, resumable=True, **SMALL)


def test_the_asynchronous_client_does_the_same(llama_dir: Path, tmp_path: Path, expected: Any) -> None:
    async def run() -> None:
        transport = AsyncBreaking(model=[str(llama_dir)], spool_dir=str(tmp_path))
        async with AsyncClient(transport=transport) as client:
            assert_same(await client.capture(PROMPT, SITES, resumable=True, capture_id="a", **SMALL), expected)
            assert_same(await client.resume_capture("a"), expected)
            assert [record.capture_id for record in await client.captures()] == ["a"]
            assert (await client.get_capture("a")).state == pb.CAPTURE_STATE_COMMITTED
            cost = await client.estimate_capture(PROMPT, SITES, **SMALL)
            assert cost.tensor_bytes == sum(entry.length_bytes for entry in expected.manifest.entries)
            await client.delete_capture("a")
            with pytest.raises(UnknownIdError):
                await client.resume_capture("a")

    asyncio.run(run())


def test_a_generation_that_was_left_is_run_again_by_its_token(client: Client) -> None:
    options: dict[str, Any] = {"hooks": ["resid_post"], "max_tokens": 60, "temperature": 1.0, "ignore_eos": True}
    with client.generate(PROMPT, generation_id="left", resumable=True, **options) as generation:
        first = [next(generation).token_id for _ in range(4)]
    with pytest.raises(StreamingError) as caught:
        client.resume_capture("left")
    assert caught.value.restart_token
    deadline = time.monotonic() + 20
    while client.get_capture("left").state != pb.CAPTURE_STATE_BROKEN:  # until it has seen that its reader went
        assert time.monotonic() < deadline
    again = client.resume_capture("left", restart_token=caught.value.restart_token)
    assert again.token_ids[0][len(PROMPT) :][:4] == first
    assert len(again.token_ids[0]) == len(PROMPT) + 60
    assert_same(client.resume_capture("left"), again)


def test_what_is_kept_is_listed_described_and_removed(client: Client, transport: Breaking) -> None:
    transport.events = 10**6
    client.capture(PROMPT, ["ln1"], resumable=True, capture_id="listed")
    assert "listed" in [record.capture_id for record in client.captures()]
    assert len(client.get_capture("listed").plan.tensors) == 4
    client.delete_capture("listed")
    with pytest.raises(UnknownIdError):
        client.get_capture("listed")
