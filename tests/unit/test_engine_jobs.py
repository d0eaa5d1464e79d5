"""The engine's thread with made-up work: turns, slow readers, readers that leave, failures, and its own survival.

python -m pytest tests/unit/test_engine_jobs.py
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from neuroscope.errors import (
    InvalidRequestError,
    MLXIntegrationError,
    ModelNotFoundError,
    NeuroScopeIntegrationError,
    ResourceExhaustedError,
)
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model import LoadedModel

LIMIT_BYTES = 100


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(LIMIT_BYTES)
    yield engine
    await asyncio.wait_for(asyncio.to_thread(engine.stop), 10)


async def answers(engine: Engine) -> bool:
    """Whether the thread still works."""
    stream = engine.start(iter([1, 2]))
    async with asyncio.timeout(5):
        return [item async for item in stream.items()] == [1, 2]


async def settle(counter: list[int]) -> int:
    """How far a job got, once it has rested for a while."""
    before = -1
    while before != len(counter):
        before = len(counter)
        await asyncio.sleep(0.1)
    return before


async def test_items_arrive_in_order(engine: Engine) -> None:
    stream = engine.start(iter(range(1000)))
    assert [item async for item in stream.items()] == list(range(1000))


async def test_jobs_take_turns_item_by_item(engine: Engine) -> None:
    order: list[str] = []
    release = threading.Event()

    def work(name: str, count: int) -> Iterator[int]:
        release.wait()
        for number in range(count):
            order.append(name)
            yield number

    streams = [engine.start(work(name, count)) for name, count in (("a", 50), ("b", 3), ("c", 3))]
    await asyncio.sleep(0.05)
    release.set()
    for stream in streams:
        assert [item async for item in stream.items()]
    assert max(index for index, name in enumerate(order) if name != "a") < 12, order


async def test_a_slow_reader_stops_its_own_job_alone(engine: Engine) -> None:
    produced: list[int] = []

    def work() -> Iterator[int]:
        for number in range(1000):
            produced.append(number)
            yield number

    slow = engine.start(work(), size=lambda _: 30)
    assert await settle(produced) == 4  # 3 items hold 90 bytes, the 4th goes over the limit
    assert await answers(engine)
    items = slow.items()
    for number in range(3):
        assert await anext(items) == number
    assert await settle(produced) == 4  # reading alone does not free memory: the items have not left yet
    slow.release(90)
    assert await settle(produced) == 7
    slow.close()
    assert await settle(produced) == 7


async def test_a_reader_that_leaves_ends_its_job_before_the_next_item(engine: Engine) -> None:
    produced: list[int] = []
    proceed, ended = threading.Semaphore(0), threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                proceed.acquire()
                produced.append(1)
                yield 1
        finally:
            ended.set()

    stream = engine.start(work())
    proceed.release()
    assert await anext(stream.items()) == 1
    stream.close()  # the job waits inside of its second item now
    proceed.release()
    assert await asyncio.to_thread(ended.wait, 5)
    assert len(produced) <= 2
    assert await answers(engine)


async def test_a_job_that_rests_ends_when_its_reader_leaves(engine: Engine) -> None:
    ended = threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    other = engine.start(work(), size=lambda _: LIMIT_BYTES)
    await anext(other.items())
    other.close()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_errors_reach_the_reader_after_what_came_before(engine: Engine) -> None:
    def work(error: Exception) -> Iterator[int]:
        yield 1
        raise error

    for error, expected in (
        (InvalidRequestError("wrong", field="x"), InvalidRequestError),
        (ZeroDivisionError("oops"), MLXIntegrationError),
    ):
        items = engine.start(work(error)).items()
        assert await anext(items) == 1
        with pytest.raises(expected, match=str(error)):
            await anext(items)
    assert await answers(engine)


async def test_a_job_whose_end_fails_harms_no_other(engine: Engine) -> None:
    def work() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise ZeroDivisionError("in the end")

    stream = engine.start(work(), size=lambda _: LIMIT_BYTES)
    await anext(stream.items())
    stream.close()
    assert await answers(engine)


async def test_unloading_ends_the_jobs_of_that_model_only(engine: Engine) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    doomed, spared = put_model(engine, "doomed"), put_model(engine, "spared")
    streams = [engine.start(endless(), model=model, size=lambda _: 1) for model in (doomed, spared, doomed)]
    await engine.unload("doomed")
    for stream in (streams[0], streams[2]):
        with pytest.raises(NeuroScopeIntegrationError, match="doomed was unloaded"):
            _ = [stream.release(1) async for _ in stream.items()]
    assert await anext(streams[1].items()) == 1
    assert [model.description.model_id for model in engine.models()] == ["spared"]
    streams[1].close()
    assert await answers(engine)


async def test_a_job_whose_model_went_before_it_began_is_refused(engine: Engine) -> None:
    """A request is checked first; meanwhile its model may have been evicted or unloaded."""
    model = put_model(engine, "gone")
    await engine.unload("gone")
    with pytest.raises(ModelNotFoundError, match="'gone' is not loaded"):
        _ = [item async for item in engine.start(iter([1]), model=model).items()]
    assert await answers(engine)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc_or_wait] Unable to allocate 8 bytes.")])
async def test_a_failed_allocation_is_no_fault_of_ours(engine: Engine, error: Exception) -> None:
    def work() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(ResourceExhaustedError, match="memory ran short"):
        _ = [item async for item in engine.start(work()).items()]
    assert await answers(engine)


async def test_unload_that_is_cancelled_does_not_harm_the_engine(engine: Engine) -> None:
    """A client may leave while its UnloadModel waits for the engine, which is in the middle of a piece of work."""
    proceed = threading.Event()

    def busy() -> Iterator[int]:
        proceed.wait()
        yield 1

    put_model(engine, "model")
    stream = engine.start(busy())
    await asyncio.sleep(0.05)
    unload = asyncio.create_task(engine.unload("model"))
    await asyncio.sleep(0.05)
    unload.cancel()
    await asyncio.gather(unload, return_exceptions=True)
    proceed.set()
    assert [item async for item in stream.items()] == [1]
    assert await answers(engine)


async def test_stopping_ends_what_runs_and_what_waits() -> None:
    engine = Engine(LIMIT_BYTES)
    proceed = threading.Event()

    def busy() -> Iterator[int]:
        proceed.wait()
        yield 1
        yield 2

    running = engine.start(busy())
    await asyncio.sleep(0.05)
    put_model(engine, "model")
    waiting = engine.start(iter([1]))  # a command the thread has not seen yet
    unload = asyncio.create_task(engine.unload("model"))
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
    await asyncio.sleep(0.05)
    proceed.set()
    await asyncio.wait_for(stopping, 10)
    async with asyncio.timeout(10):
        for stream in (running, waiting):
            with pytest.raises(NeuroScopeIntegrationError, match="stopping"):
                _ = [item async for item in stream.items()]
        await unload
    with pytest.raises(NeuroScopeIntegrationError, match="stopping"):
        engine.start(iter([1]))


def put_model(engine: Engine, model_id: str) -> LoadedModel:
    """A model that is nothing but a name."""
    model = cast("Any", SimpleNamespace(description=SimpleNamespace(model_id=model_id), release=lambda: None))
    engine.registry.add(model)
    return model
