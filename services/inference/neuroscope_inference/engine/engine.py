"""The engine's thread: owns every model and advances jobs one piece of work at a time, in turn.

A job is a generator: loading, a capture, the prefill of a generation. In each round every job does one piece, then
every model one decode step for all rows that have been prefilled, so a long prefill does not hold up a generation, and
a new request waits for no more than a step. A job whose reader is slow or whose credit is spent is passed over.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import mlx.core as mx

from neuroscope.errors import MLXIntegrationError, NeuroScopeIntegrationError, ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.counters import EngineCounters
from neuroscope_inference.engine.decoder import BatchSlot, Decoder
from neuroscope_inference.engine.loading import LoadRequest, load
from neuroscope_inference.engine.memory import is_out_of_memory
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.model_registry import ModelRegistry
from neuroscope_inference.engine.prompt_cache import PromptCache
from neuroscope_inference.engine.row import Row
from neuroscope_inference.engine.stream import Stream
from neuroscope_serving.malloc import trim_heap

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Job:
    """A generator and where its items go; rows that it yields decode together with those of other jobs."""

    work: Iterator[Any]
    stream: Stream[Any]
    size: Callable[[Any], int]
    may_compute: Callable[[int], bool]
    model: LoadedModel | None = None
    arrived_s: float | None = field(default_factory=time.perf_counter)
    """When it was started, until its first piece of work."""
    slots: list[BatchSlot] = field(default_factory=list)

    def is_runnable(self) -> bool:
        """Whether there is something to do: the next piece, or the end of a job that nobody reads."""
        return self.stream.closed or (self.stream.has_room() and not self.slots)

    def deliver(self, item: Any) -> None:
        """Hands an item to the reader."""
        self.stream.put(item, self.size(item))


def _always(_: int) -> bool:
    return True


def _no_payload(_: Any) -> int:
    return 0


def _as_integration_error(error: Exception) -> MLXIntegrationError:
    """An error as the reader is told of it."""
    if isinstance(error, MLXIntegrationError):
        return error
    if is_out_of_memory(error):
        return ResourceExhaustedError(f"memory ran short: {error}")
    return MLXIntegrationError(f"the engine failed: {error}")


class Engine:
    """Runs models. Methods may be called from any thread; the work happens on the engine's own.

    Args:
        stream_limit_bytes: captures that one reader may leave unread before its job rests.
        prompt_cache_bytes: what each model may keep of prompts that were read.
        registry: where the loaded models are.
    """

    def __init__(
        self, stream_limit_bytes: int, prompt_cache_bytes: int = 0, registry: ModelRegistry | None = None
    ) -> None:
        self.registry = registry or ModelRegistry()
        self._prompt_cache_bytes = prompt_cache_bytes
        self.counters = EngineCounters()
        self._stream_limit_bytes = stream_limit_bytes
        self._commands: deque[Callable[[], None]] = deque()
        self._jobs: deque[Job] = deque()
        self._decoders: dict[int, Decoder] = {}  # by identity of the model
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="neuroscope-engine", daemon=True)
        self._thread.start()

    # What other threads call ------------------------------------------------------------------------------------

    def start(
        self,
        work: Iterator[Result],
        *,
        model: LoadedModel | None = None,
        may_compute: Callable[[int], bool] = _always,
        size: Callable[[Any], int] = _no_payload,
    ) -> Stream[Any]:
        """Starts a job; must be called on the event loop that will read the stream.

        Args:
            work: yields what is sent, a list of rows that are to decode, or None where others may have their turn.
            model: what it runs on; unloading it ends the job.
            may_compute: whether a decode step may be computed.
            size: bytes that an item holds until the reader gives them back.
        """
        stream: Stream[Any] = Stream(asyncio.get_running_loop(), self._stream_limit_bytes, self.wake)
        job = Job(work, stream, size, may_compute, model)
        self._command(lambda: self._begin(job))
        return stream

    def load(self, request: LoadRequest) -> Stream[pb.LoadProgress | LoadedModel]:
        """Loads a model; the stream carries progress, then the model. One that is loaded already comes at once."""
        return self.start(self._load(request))

    async def unload(self, model_id: str) -> None:
        """Frees a model; its running jobs end with an error.

        Raises:
            ModelNotFoundError: no model of that id is loaded.
        """
        await self.call(lambda: self._unload(model_id))

    async def call(self, function: Callable[[], Result]) -> Result:
        """What a function gives on the engine's thread, between two pieces of work."""
        future: Future[Result] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():  # whoever asked may have gone
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._command(command)
        return await asyncio.wrap_future(future)

    def models(self) -> list[LoadedModel]:
        """The loaded models, oldest first."""
        return self.registry.models()

    def model(self, model_id: str) -> LoadedModel:
        """A loaded model; the oldest for an empty id.

        Raises:
            ModelNotFoundError: none of that id is loaded; names those that are.
        """
        return self.registry.get(model_id)

    @property
    def decoding_rows(self) -> int:
        """Rows that decode."""
        return sum(len(decoder.slots) for decoder in list(self._decoders.values()))

    def wake(self) -> None:
        """Makes the thread look again at what it can do."""
        with self._condition:
            self._condition.notify()

    def stop(self) -> None:
        """Ends every job and the thread."""
        self._stopping = True
        self.wake()
        self._thread.join()

    # What the engine's thread does ------------------------------------------------------------------------------

    def _command(self, command: Callable[[], None]) -> None:
        with self._condition:
            if self._stopping:
                raise NeuroScopeIntegrationError("the inference service is stopping")
            self._commands.append(command)
            self._condition.notify()

    def _run(self) -> None:
        if mx.default_device() == mx.cpu:
            mx.disable_compile()  # fusing on the CPU starts a C++ compiler for seconds in the middle of a request
        while True:
            with self._condition:
                self._condition.wait_for(self._has_work)
                commands, stopping = list(self._commands), self._stopping
                self._commands.clear()
            for command in commands:
                command()
            if stopping:
                for job in self._jobs:
                    self._end(job, NeuroScopeIntegrationError("the inference service is stopping"))
                return
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                if not job.is_runnable() or self._advance(job):
                    self._jobs.append(job)
            for decoder in list(self._decoders.values()):
                self._decode(decoder)

    def _begin(self, job: Job) -> None:
        if job.model is not None and job.model not in self.registry:  # it went while the request was being checked
            job.stream.fail(self.registry.not_loaded_error(job.model.description.model_id))
        else:
            self._jobs.append(job)

    def _has_work(self) -> bool:
        if self._stopping or self._commands or any(map(Job.is_runnable, self._jobs)):
            return True
        return any(decoder.is_ready for decoder in self._decoders.values())

    def _advance(self, job: Job) -> bool:
        """Does one piece of a job's work; False when it has ended."""
        if job.model is not None:
            job.model.used_at_s = time.monotonic()
        if job.stream.closed:
            self._end(job, None)
            return False
        if job.arrived_s is not None:
            self.counters.record_wait(time.perf_counter() - job.arrived_s)
            job.arrived_s = None
        try:
            item = next(job.work)
        except StopIteration:
            job.stream.finish()
            return False
        except MLXIntegrationError as error:
            job.stream.fail(error)
            return False
        except Exception as error:
            _log.exception("a job failed")
            job.stream.fail(_as_integration_error(error))
            return False
        if isinstance(item, list):
            self._add_rows(job, cast("list[Row]", item))
        elif item is not None:
            job.deliver(item)
        return True

    def _add_rows(self, job: Job, rows: list[Row]) -> None:
        """Lets rows decode; their job goes on when all have ended."""
        for row in rows:
            model = row.forward.model
            decoder = self._decoders.setdefault(id(model), Decoder(model))
            slot = BatchSlot(row, job.may_compute, job.stream.has_room, job.deliver, partial(self._fail, job))
            job.slots.append(slot)
            decoder.slots.append(slot)

    def _decode(self, decoder: Decoder) -> None:
        """One step of every row of a model that may go on."""
        if not decoder.is_ready:
            return
        try:
            decoder.step()
        except Exception as error:
            _log.exception("a decode step failed")
            failed = _as_integration_error(error)
            for job in [job for job in self._jobs if any(slot in decoder.slots for slot in job.slots)]:
                self._fail(job, failed)
        for job in self._jobs:
            job.slots = [slot for slot in job.slots if not slot.row.ended]

    def _fail(self, job: Job, error: MLXIntegrationError) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        self._end(job, error)

    def _end(self, job: Job, error: MLXIntegrationError | None) -> None:
        for slot in job.slots:
            self._decoders[id(slot.row.forward.model)].remove(slot)
        job.slots = []
        close = getattr(job.work, "close", None)
        if close is not None:
            try:
                close()
            except Exception:
                _log.exception("a job failed as it was ended")
        if error is not None:
            job.stream.fail(error)

    def _load(self, request: LoadRequest) -> Iterator[pb.LoadProgress | LoadedModel]:
        existing = self.registry.loaded_as(request)
        if existing is not None:
            yield existing
            return
        try:
            for event in load(request):
                if isinstance(event, LoadedModel):
                    existing = self.registry.loaded_as(request)  # by another request, meanwhile
                    self.registry.release(request)
                    if existing is None:
                        event.prompt_cache = PromptCache(self._prompt_cache_bytes)
                        self.registry.add(event)
                    yield existing or event
                    return
                if event.phase == pb.LOAD_PHASE_READ and not event.bytes_done:  # sizes are known, nothing is read yet
                    self._make_room(request, event.bytes_total)
                yield event
        finally:
            self.registry.release(request)

    def _make_room(self, request: LoadRequest, nbytes: int) -> None:
        in_use = [job.model for job in self._jobs if job.model is not None]
        if self.registry.reserve(request, nbytes, in_use):
            self._decoders = {key: decoder for key, decoder in self._decoders.items() if decoder.slots}
            _free_memory()

    def _unload(self, model_id: str) -> None:
        self._remove(self.model(model_id))
        _free_memory()

    def _remove(self, model: LoadedModel) -> None:
        self.registry.remove(model)
        for job in [job for job in self._jobs if job.model is model]:
            self._jobs.remove(job)
            self._end(job, NeuroScopeIntegrationError(f"model {model.description.model_id} was unloaded"))
        self._decoders.pop(id(model), None)


def _free_memory() -> None:
    """Frees what a model that was taken away left: what was proven and planned on it may refer to itself."""
    gc.collect()
    mx.clear_cache()
    trim_heap()
