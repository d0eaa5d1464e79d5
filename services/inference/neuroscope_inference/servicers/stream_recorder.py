"""Streams on their way to a reader and into the spool, and kept ones on their way out of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message

from neuroscope.errors import IdTakenError, UnknownIdError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.codec import Event, Frame, decoder, encode
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.servicers.hooks import HookServicer
from neuroscope_inference.spool.entry import SpoolEntry, StreamHeader
from neuroscope_inference.spool.records import Record, RecordKind
from neuroscope_inference.spool.spool import Spool

Request = TypeVar("Request", pb.CaptureRequest, pb.GenerateRequest)
Result = TypeVar("Result")

_KINDS = {
    "started": RecordKind.STARTED,
    "plan": RecordKind.PLAN,
    "token": RecordKind.TOKEN,
    "manifest": RecordKind.MANIFEST,
}
_READ_BYTES = 1024 * 1024
_THREADS = 4


class StreamRecorder:
    """Keeps streams in a spool and sends kept ones again; waits for the disk on threads of its own.

    One message of a stream is being written at any time, and it is sent once that is done. So a slow disk slows the
    streams that are kept on it, by the credit that they give the engine, and nothing else.
    """

    def __init__(self, spool: Spool, engine: Engine, hooks: HookServicer) -> None:
        self.spool = spool
        self._engine = engine
        self._hooks = hooks
        self._threads = ThreadPoolExecutor(_THREADS, "neuroscope-spool")

    async def run_blocking(self, function: Callable[..., Result], *args: Any) -> Result:
        """Calls a method of the spool beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args))

    def resolve_defaults(self, request: Request) -> Request:
        """The request with what it means now: the default model's name, and stored hooks instead of their ids."""
        copy = type(request)()
        copy.CopyFrom(request)
        copy.model_id = self._engine.model(request.model_id).description.model_id
        del copy.hooks[:], copy.hook_ids[:]
        copy.hooks.extend(hook for _, hook in self._hooks.resolve(request.hooks, request.hook_ids))
        return copy

    async def find_committed(self, request: Request, capture_id: str) -> SpoolEntry | None:
        """The whole stream of a request that is repeated; None if it is to be run.

        Args:
            request: spelled out.
            capture_id: the id that it chose.

        Raises:
            IdTakenError: the id is that of another request, or of one that is running.
        """
        entry = await self.run_blocking(self.spool.find, capture_id)
        if entry is None or entry.state == "broken":
            return None
        if entry.header.request != request:
            raise IdTakenError(f"capture {capture_id!r} is kept, and is of another request", field="capture_id")
        if entry.state == "running":
            raise IdTakenError(f"capture {capture_id!r} is running", field="capture_id")
        return entry

    async def record(self, header: StreamHeader, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events of a stream, each one on the disk before it is handed on. The manifest makes the stream whole.

        Raises:
            IdTakenError: a stream of that id is running, or kept.
            ResourceExhaustedError: it cannot be kept.
        """
        async with aclosing(events):
            entry = await self.run_blocking(self.spool.begin, header)
            try:
                async for event in events:
                    wire = encode(event)
                    await self.run_blocking(self.spool.append, entry, _record_kind(event), wire)
                    yield _backed_by(event, wire) if isinstance(event, Frame) else event
            finally:
                with suppress(RuntimeError):  # the service stops, and breaks off what it writes itself
                    self._threads.submit(self.spool.abort, entry)

    async def replay(
        self, entry: SpoolEntry, response: type[Message], sequence: int = 0
    ) -> AsyncGenerator[Event, None]:
        """The events of a whole stream, byte for byte, from a frame on.

        Raises:
            UnknownIdError: it has been removed meanwhile.
            ChecksumError: the disk gave back something else.
        """
        decode = decoder(response)
        records = entry.records(sequence)
        try:
            while batch := await self.run_blocking(_read_batch, records):
                for record in batch:
                    event = decode(record.payload)
                    yield _backed_by(event, record.payload) if isinstance(event, Frame) else event
        except FileNotFoundError:
            capture_id = entry.header.capture_id
            raise UnknownIdError(f"capture {capture_id!r} has just been removed", field="capture_id") from None

    def close(self) -> None:
        """Waits for what is being written, and leaves the folder."""
        self._threads.shutdown()
        self.spool.close()


def _record_kind(event: Event) -> RecordKind:
    if isinstance(event, Frame):
        return RecordKind.FRAME
    assert isinstance(event, pb.GenerateResponse | pb.CaptureResponse | pb.ResumeCaptureResponse)
    return _KINDS[str(event.WhichOneof("event"))]


def _backed_by(event: Frame, wire: bytes) -> Frame:
    """The frame over the bytes of its message, of which the payload is the tail: the engine's memory is free again."""
    return Frame(event.header, (memoryview(wire)[len(wire) - event.nbytes :],), wire)


def _read_batch(records: Iterator[Record]) -> list[Record]:
    """The next records, about as many as are worth a change of threads."""
    batch: list[Record] = []
    nbytes = 0
    for record in records:
        batch.append(record)
        nbytes += len(record.payload)
        if nbytes >= _READ_BYTES:
            break
    return batch
