"""Memory that a service shares with a client: what is written is read, nothing is overwritten, nothing is left behind.

python -m pytest tests/unit/test_shared_memory.py
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event, Frame, decoder, encode
from neuroscope.wire.endpoint import Endpoint
from neuroscope.wire.frames import SLICE_BYTES, FramePacker, FrameReader, OutgoingTensor
from neuroscope.wire.shared_memory import BLOCK_BYTES, MappedMemory, SharedMemory
from neuroscope.wire.shared_memory_client import MappingPool, SharedMemoryReader
from neuroscope_inference.shared_memory_pool import PrivateFolder, SharedMemoryPool
from tests.support.streams import Stream

BYTES = 24 * BLOCK_BYTES
DECODE = decoder(pb.GenerateResponse)


@pytest.fixture
def memory(tmp_path: Path):
    made = SharedMemory.create(tmp_path, BYTES)
    yield made
    made.close()


def mapped(memory: SharedMemory) -> MappedMemory:
    found = MappedMemory.open(memory.offer)
    assert found is not None
    return found


def payload(seed: int, nbytes: int) -> memoryview:
    return memoryview(np.random.default_rng(seed).bytes(nbytes))


def test_what_is_placed_is_seen_at_the_other_end_without_a_copy(memory: SharedMemory) -> None:
    there = mapped(memory)
    parts = [payload(1, 100), payload(2, 3 * BLOCK_BYTES)]
    region = memory.place(parts)
    assert region is not None
    view = there.view(region)
    assert bytes(view) == b"".join(parts)
    view[0] ^= 255  # the same pages
    assert there.view(region)[0] == parts[0][0] ^ 255


def test_the_file_is_the_owners_alone_and_gone_once_it_is_mapped(memory: SharedMemory) -> None:
    path = Path(memory.offer.path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not memory.is_mapped
    there = mapped(memory)
    assert memory.is_mapped
    assert not path.exists()
    region = memory.place([payload(0, 10)])
    assert region is not None
    assert bytes(there.view(region)) == bytes(payload(0, 10))


def test_a_payload_waits_until_no_view_of_its_place_is_left(memory: SharedMemory) -> None:
    there = mapped(memory)
    views, sent = [], []
    while (region := memory.place([payload(len(sent), 5 * BLOCK_BYTES)])) is not None:
        views.append(np.frombuffer(there.view(region), np.uint8)[7:])  # an array that outlives its view
        sent.append(payload(len(sent), 5 * BLOCK_BYTES))
    assert len(views) == (BYTES // BLOCK_BYTES - 1) // 5
    del views[1]
    again = memory.place([payload(99, 5 * BLOCK_BYTES)])
    assert again is not None
    assert memory.place([payload(98, 5 * BLOCK_BYTES)]) is None
    for view, data in zip(views, sent[:1] + sent[2:], strict=True):
        assert bytes(view) == bytes(data)[7:]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4 * BLOCK_BYTES), st.integers(0, 3)), min_size=1, max_size=60))
def test_no_order_of_reading_overwrites_what_is_still_looked_at(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    memory = SharedMemory.create(tmp_path_factory.mktemp("shared"), BYTES)
    there = mapped(memory)
    held: list[tuple[memoryview, bytes]] = []
    for seed, (nbytes, dropped) in enumerate(steps):
        data = payload(seed, nbytes)
        region = memory.place([data])
        if region is not None:
            held.append((there.view(region), bytes(data)))
        for _ in range(min(dropped, len(held)) if region is not None else len(held)):
            held.pop((seed * 7) % len(held))
        assert all(bytes(view) == expected for view, expected in held)
    memory.close()


def test_a_file_that_is_not_the_one_offered_is_not_mapped(memory: SharedMemory, tmp_path: Path) -> None:
    other = tensor_pb2.SharedMemory()
    other.CopyFrom(memory.offer)
    other.nonce = bytes(32)
    assert MappedMemory.open(other) is None
    for path in (str(tmp_path), str(tmp_path / "absent"), "", "\0"):
        other.CopyFrom(memory.offer)
        other.path = path
        assert MappedMemory.open(other) is None
    link = tmp_path / "link"
    link.symlink_to(memory.offer.path)
    other.path = str(link)
    assert MappedMemory.open(other) is None
    assert not memory.is_mapped


def test_a_region_outside_of_the_memory_is_an_error(memory: SharedMemory) -> None:
    there = mapped(memory)
    name = memory.offer.region_id
    for offset, length in ((0, 16), (BLOCK_BYTES, BYTES), (BYTES, 1), (BLOCK_BYTES + 1, 1), (BLOCK_BYTES, 0)):
        with pytest.raises(StreamingError, match="outside of the shared memory"):
            there.view(tensor_pb2.SharedRegion(region_id=name, offset_bytes=offset, length_bytes=length))
    with pytest.raises(StreamingError, match="outside of the shared memory"):
        there.view(tensor_pb2.SharedRegion(region_id="another", offset_bytes=BLOCK_BYTES, length_bytes=1))


def test_a_file_system_without_room_leaves_what_it_gave(memory: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    first = memory.place([payload(0, 10)])
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert first is not None
    assert memory.place([payload(0, 22 * BLOCK_BYTES)]) is None
    assert memory.place([payload(0, 10)]) is not None


# A stream.


def large_events(count: int) -> tuple[Stream, list[np.ndarray]]:
    stream = Stream(*(tensor_site(layer) for layer in range(2)))
    arrays = [np.random.default_rng(i).normal(size=(1, 64, 2048)).astype(np.float32) for i in range(count)]  # 512 KiB
    return stream, arrays


def tensor_site(layer: int):
    from neuroscope.vocabulary.sites import Point

    return Point("resid_post", layer)


async def events_of(stream: Stream, arrays: list[np.ndarray], slice_bytes: int) -> AsyncGenerator[Event, None]:
    plan = stream.plan().plan
    yield pb.GenerateResponse(plan=plan)
    packer = FramePacker(list(plan.tensors), slice_bytes)
    for step, array in enumerate(arrays):
        tensors = [OutgoingTensor(i, 0, array.shape, 0, array.reshape(-1).view(np.uint8).data) for i in range(2)]
        tensors.append(OutgoingTensor(0, 1, (1, 1, 4), 0, array.reshape(-1)[:4].view(np.uint8).data))
        for frame in packer.pack(step, tensors):
            yield frame


async def collect(
    sharing: SharedMemoryPool, arrays: list[np.ndarray], *, maps: bool, keeps: bool, pool: MappingPool | None = None
) -> tuple[int, list]:
    """How many frames came where they lay in shared memory, and the tensors as received."""
    stream, _ = large_events(0)
    client, reader, borrowed, found = SharedMemoryReader(pool), None, 0, []
    wanted = sharing.requested_region([client.metadata], "unix")
    async for event in sharing.share_payloads(events_of(stream, arrays, 4 * SLICE_BYTES), wanted):
        raw = encode(event)
        received = DECODE(raw)
        if not maps and not isinstance(received, Frame):
            assert isinstance(received, pb.GenerateResponse)
            received.plan.ClearField("shared_memory")
        received = client.resolve(received)
        if isinstance(received, Frame):
            assert reader is not None
            borrowed += received.borrowed
            pieces = reader.read(received)
            found += [piece.array if keeps else piece.array.copy() for piece in pieces]
            del pieces
        else:
            assert isinstance(received, pb.GenerateResponse)
            assert not received.plan.HasField("shared_memory")
            reader = FrameReader(received.plan)
    client.finish()
    return borrowed, found


def assert_all(found: list[np.ndarray], arrays: list[np.ndarray]) -> None:
    assert len(found) == 3 * len(arrays)
    for index, array in enumerate(arrays):
        for got in found[3 * index : 3 * index + 3]:
            np.testing.assert_array_equal(got.reshape(-1), array.reshape(-1)[: got.size])


@pytest.mark.parametrize("keeps", [False, True])
def test_a_stream_comes_whole_through_a_small_memory(keeps: bool) -> None:
    _, arrays = large_events(12)

    async def stream() -> None:
        sharing = SharedMemoryPool(2 * BYTES)  # 47 blocks of 64 KiB hold five such tensors
        borrowed, found = await collect(sharing, arrays, maps=True, keeps=keeps)
        assert_all(found, arrays)
        assert borrowed == (24 if not keeps else 1)  # a second would be a third of the memory
        assert sharing.shared_bytes == 24 * arrays[0].nbytes
        assert sharing.streams == 0
        sharing.close()

    asyncio.run(stream())


def test_a_client_that_cannot_map_gets_bytes() -> None:
    _, arrays = large_events(3)
    sharing = SharedMemoryPool(BYTES)
    borrowed, found = asyncio.run(collect(sharing, arrays, maps=False, keeps=False))
    assert (borrowed, sharing.shared_bytes) == (0, 0)
    assert_all(found, arrays)
    sharing.close()


def test_views_that_outlive_stream_and_service_stay_what_they_were() -> None:
    _, arrays = large_events(1)
    sharing = SharedMemoryPool(4 * BYTES)
    borrowed, found = asyncio.run(collect(sharing, arrays, maps=True, keeps=True))
    sharing.close()
    gc.collect()
    assert borrowed == 2
    assert_all(found, arrays)


@pytest.mark.parametrize(
    ("client", "metadata", "length", "wanted"),
    [
        ("unix", (("neuroscope-shared-memory", "1"),), BYTES, "1"),
        ("127.0.0.1", (("neuroscope-shared-memory", "1"),), BYTES, "1"),
        ("[::1]", (("neuroscope-shared-memory", "a name"),), BYTES, "a name"),
        ("10.0.0.7", (("neuroscope-shared-memory", "1"),), BYTES, ""),
        ("unix", (), BYTES, ""),
        ("unix", (("neuroscope-shared-memory", "1"),), 0, ""),
        ("in process", (("neuroscope-shared-memory", "1"),), BYTES, ""),
    ],
)
def test_memory_is_shared_with_clients_of_this_host_that_ask(client, metadata, length: int, wanted: str) -> None:
    assert SharedMemoryPool(length).requested_region(metadata, client) == wanted


def region_of(pool: MappingPool) -> str:
    memory = pool.acquire()
    assert memory is not None
    pool.release(memory)
    return memory.region_id


def test_the_next_stream_of_a_client_has_the_same_memory() -> None:
    async def streams() -> None:
        _, arrays = large_events(3)
        sharing, pool = SharedMemoryPool(4 * BYTES), MappingPool()
        borrowed, found = await collect(sharing, arrays, maps=True, keeps=False, pool=pool)
        first = region_of(pool)
        again, found = await collect(sharing, arrays, maps=True, keeps=False, pool=pool)
        assert_all(found, arrays)
        assert borrowed == again == 6
        assert region_of(pool) == first
        other = MappingPool()
        _, found = await collect(sharing, arrays, maps=True, keeps=False, pool=other)
        assert_all(found, arrays)
        assert region_of(other) != first
        sharing.close()  # as a service that starts anew
        _, found = await collect(sharing, arrays, maps=True, keeps=False, pool=pool)
        assert_all(found, arrays)
        assert region_of(pool) != first
        sharing.close()

    asyncio.run(streams())


def test_memory_of_which_a_view_is_left_goes_to_no_other_stream() -> None:
    async def streams() -> None:
        _, arrays = large_events(1)
        _, others = large_events(3)
        sharing, pool = SharedMemoryPool(4 * BYTES), MappingPool()
        borrowed, kept = await collect(sharing, arrays, maps=True, keeps=True, pool=pool)
        assert borrowed == 2
        borrowed, found = await collect(sharing, others, maps=True, keeps=False, pool=pool)
        assert borrowed == 6
        assert_all(found, others)
        assert_all(kept, arrays)
        sharing.close()

    asyncio.run(streams())


def test_what_a_reader_broke_off_is_not_kept() -> None:
    async def streams() -> None:
        _, arrays = large_events(3)
        sharing, pool = SharedMemoryPool(BYTES), MappingPool()
        client = SharedMemoryReader(pool)
        stream, _ = large_events(0)
        events = sharing.share_payloads(events_of(stream, arrays, 4 * SLICE_BYTES), client.metadata[1])
        assert not isinstance(client.resolve(DECODE(encode(await anext(events)))), Frame)
        await anext(events)
        await events.aclose()
        assert not sharing.held_bytes

    asyncio.run(streams())


def test_little_memory_is_kept_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuroscope_inference.shared_memory_pool._IDLE_S", 0.05)

    async def streams() -> None:
        _, arrays = large_events(3)
        sharing, clients = SharedMemoryPool(BYTES), [MappingPool() for _ in range(5)]
        for pool in clients:
            await collect(sharing, arrays, maps=True, keeps=False, pool=pool)
            assert 0 < sharing.held_bytes <= 2 * BYTES
        await asyncio.sleep(0.2)
        assert sharing.held_bytes == 0

    asyncio.run(streams())


def test_a_folder_whose_process_was_killed_is_removed_by_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    living = PrivateFolder()
    left = tmp_path / "neuroscope-shared-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "0123").touch()
    after = PrivateFolder()
    assert not left.exists()
    assert living.path.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {living.path.name, after.path.name}
    living.close()
    after.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.0.1:1", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("unix:/run/socket", True),
        ("unix:///run/socket", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv6:[::1]:1", True),
        ("10.0.0.1:50051", False),
        ("gpu-box:50051", False),
        ("localhost.example.org:50051", False),
        ("dns:///example.org:1", False),
    ],
)
def test_which_targets_are_on_this_host(target: str, here: bool) -> None:
    assert Endpoint(target).is_on_this_host is here


def test_a_url_is_no_target() -> None:
    with pytest.raises(InvalidRequestError, match="host:port") as caught:
        Endpoint("http://127.0.0.1:1")
    assert caught.value.field == "target"
