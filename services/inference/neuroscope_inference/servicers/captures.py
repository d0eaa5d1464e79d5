"""CaptureService: forward passes without sampling, and streams that were kept."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import assert_never

import numpy as np
import xxhash
from opentelemetry.context import Context

from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire import frames
from neuroscope.wire.codec import Event
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.estimate import estimate
from neuroscope_inference.servicers.generation import GenerationServicer
from neuroscope_inference.servicers.runner import PreparedRun, Response, Runner
from neuroscope_inference.servicers.stream_recorder import StreamRecorder
from neuroscope_inference.spool.entry import SpoolEntry, StreamHeader
from neuroscope_inference.spool.spooled_tensors import SpooledTensors

_STATES = {
    "running": pb.CAPTURE_STATE_RUNNING,
    "committed": pb.CAPTURE_STATE_COMMITTED,
    "broken": pb.CAPTURE_STATE_BROKEN,
}


class CaptureServicer:
    """Implements neuroscope.v1.CaptureService."""

    def __init__(self, engine: Engine, runner: Runner, keeper: StreamRecorder, generation: GenerationServicer) -> None:
        self._engine = engine
        self._runner = runner
        self._recorder = keeper
        self._generation = generation

    async def Capture(self, request: pb.CaptureRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Runs the prompts once and streams what the hooks see; a repeated request gets what was kept."""
        capture_id = request.capture_id or uuid.uuid4().hex
        if request.resumable:
            request = self._recorder.resolve_defaults(request)
            entry = await self._recorder.find_committed(request, capture_id)
            events = (
                self._recorder.replay(entry, pb.CaptureResponse)
                if entry
                else self._record_capture(request, capture_id, context)
            )
        else:
            prepared = await self._prepare(request, capture_id, context)
            events = self._runner.events(prepared, prepared.run.capture(), pb.CaptureResponse)
        async with aclosing(events):
            async for event in events:
                yield event

    async def EstimateCapture(self, request: pb.EstimateCaptureRequest, context: Context) -> pb.EstimateCaptureResponse:
        """Says what a capture would cost."""
        prepared = await self._prepare(request.capture, "", context)
        stream = self._engine.start(estimate(prepared.run), model=prepared.run.forward.model)
        try:
            async with aclosing(stream.items()) as items:
                answers = [answer async for answer in items]
        finally:
            stream.close()
        return answers[-1]

    async def ResumeCapture(self, request: pb.ResumeCaptureRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Sends a kept stream from a frame on, or runs one again that broke off."""
        entry = await self._entry(request.capture_id)
        if request.restart_token:
            events = self._restart(entry, request, context)
        else:
            events = self._recorder.replay(_check_resumable(entry, request), pb.ResumeCaptureResponse, request.sequence)
        async with aclosing(events):
            async for event in events:
                yield event

    async def GetCapture(self, request: pb.GetCaptureRequest, context: Context) -> pb.GetCaptureResponse:
        """Describes a kept stream."""
        return pb.GetCaptureResponse(capture=self._describe(await self._entry(request.capture_id)))

    async def ListCaptures(self, request: pb.ListCapturesRequest, context: Context) -> pb.ListCapturesResponse:
        """Lists the kept streams."""
        entries = await self._recorder.run_blocking(self._recorder.spool.entries)
        return pb.ListCapturesResponse(captures=map(self._describe, entries))

    async def DeleteCapture(self, request: pb.DeleteCaptureRequest, context: Context) -> pb.DeleteCaptureResponse:
        """Removes a kept stream."""
        await self._recorder.run_blocking(self._recorder.spool.delete, request.capture_id)
        return pb.DeleteCaptureResponse()

    async def GetCapturedTensor(
        self, request: pb.GetCapturedTensorRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Sends one tensor of a kept stream, or a range of its bytes."""
        spool = self._recorder.spool
        array = await self._recorder.run_blocking(SpooledTensors(spool).tensor, request.tensor, "tensor")
        entry = await self._entry(request.tensor.capture_id)
        if entry.plan is None:
            raise StreamingError(f"capture {request.tensor.capture_id!r} is {entry.state}", field="tensor.capture_id")
        spec = entry.plan.tensors[request.tensor.plan_index]
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        first = max(0, data.nbytes + request.offset_bytes) if request.offset_bytes < 0 else request.offset_bytes
        part = data[first : first + request.length_bytes] if request.length_bytes else data[first:]
        yield pb.GetCapturedTensorResponse(
            header=pb.CapturedTensorHeader(
                dtype=spec.dtype,
                shape=array.shape,
                axes=spec.axes,
                length_bytes=data.nbytes,
                xxh3_64=xxhash.xxh3_64_intdigest(data),
                first_byte=first,
                following_bytes=part.nbytes,
            )
        )
        for frame in frames.slice_frames(part):
            yield frame

    async def _record_capture(
        self,
        request: pb.CaptureRequest,
        capture_id: str,
        context: Context,
        response: Response = pb.CaptureResponse,
    ) -> AsyncGenerator[Event, None]:
        prepared = await self._prepare(request, capture_id, context)
        running = self._runner.events(prepared, prepared.run.capture(), response)
        async with aclosing(self._recorder.record(StreamHeader(capture_id, request), running)) as events:
            async for event in events:
                yield event

    def _restart(
        self, entry: SpoolEntry, request: pb.ResumeCaptureRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        if request.sequence:
            raise InvalidRequestError("a new attempt begins with frame 0", field="sequence")
        header = entry.header
        if entry.state != "broken" or request.restart_token != header.restart_token:
            raise InvalidRequestError(
                f"capture {header.capture_id!r} is {entry.state}, and the token is not that of its attempt "
                f"{header.attempt}",
                field="restart_token",
            )
        match header.request:
            case pb.CaptureRequest() as capture:
                return self._record_capture(capture, header.capture_id, context, pb.ResumeCaptureResponse)
            case pb.GenerateRequest() as generation:
                return self._generation.restart(generation, header, context)
            case _:
                assert_never(header.request)

    async def _prepare(self, request: pb.CaptureRequest, capture_id: str, context: Context) -> PreparedRun:
        if not request.hooks and not request.hook_ids:
            raise InvalidRequestError("a capture without hooks captures nothing", field="hooks")
        return await self._runner.prepare(request, capture_id, context, stop_before=self._stop_before(request))

    async def _entry(self, capture_id: str) -> SpoolEntry:
        return await self._recorder.run_blocking(self._recorder.spool.get, capture_id)

    def _describe(self, entry: SpoolEntry) -> pb.CaptureRecord:
        return pb.CaptureRecord(
            capture_id=entry.header.capture_id,
            state=_STATES[entry.state],
            plan=entry.plan,
            manifest=entry.manifest,
            expires_at_ms=int(1e3 * self._recorder.spool.expires_at_s(entry)),
        )

    def _stop_before(self, request: pb.CaptureRequest) -> int | None:
        if not request.HasField("stop_at_layer"):
            return None
        layers = self._engine.model(request.model_id).layout.num_layers
        if not 1 <= request.stop_at_layer <= layers:
            raise InvalidRequestError(f"stop_at_layer is between 1 and {layers}", field="stop_at_layer")
        return request.stop_at_layer if request.stop_at_layer < layers else None


def _check_resumable(entry: SpoolEntry, request: pb.ResumeCaptureRequest) -> SpoolEntry:
    """The entry, if it can be sent from that frame on."""
    capture_id = entry.header.capture_id
    if entry.state != "committed" or entry.manifest is None:
        what = "is still being written" if entry.state == "running" else "broke off before its manifest"
        raise StreamingError(
            f"capture {capture_id!r} {what} and cannot be continued; once it has broken off, the restart token runs "
            f"its request again",
            field="capture_id",
            restart_token=entry.header.restart_token,
        )
    if request.sequence > entry.manifest.frame_count:
        raise InvalidRequestError(f"capture {capture_id!r} has {entry.manifest.frame_count} frames", field="sequence")
    return entry
