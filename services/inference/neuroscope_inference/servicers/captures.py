"""CaptureService: forward passes without sampling."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NoReturn

from opentelemetry.context import Context

from neuroscope.codec import Event
from neuroscope.errors import InvalidRequestError, NotImplementedByEngineError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.servicers.running import Runner


class CaptureServicer:
    """Implements neuroscope.v1.CaptureService."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner

    async def Capture(self, request: pb.CaptureRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Runs the prompts once and streams what the hooks see."""
        if not request.hooks and not request.hook_ids:
            raise InvalidRequestError("a capture without hooks captures nothing", field="hooks")
        stop_before = self._stop_before(request)
        prepared = await self._runner.prepare(
            request, request.capture_id or uuid.uuid4().hex, context, stop_before=stop_before
        )
        work = prepared.run.capture()
        async with aclosing(self._runner.events(prepared, work, pb.CaptureResponse)) as events:
            async for event in events:
                yield event

    async def EstimateCapture(self, request: pb.EstimateCaptureRequest, context: Context) -> pb.EstimateCaptureResponse:
        """Needs the memory model of the batching engine."""
        raise NotImplementedByEngineError("this version's engine does not estimate captures")

    async def ResumeCapture(self, request: pb.ResumeCaptureRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Needs the spool."""
        _refuse()
        yield pb.ResumeCaptureResponse()

    async def GetCapture(self, request: pb.GetCaptureRequest, context: Context) -> pb.GetCaptureResponse:
        """Needs the spool."""
        _refuse()

    async def ListCaptures(self, request: pb.ListCapturesRequest, context: Context) -> pb.ListCapturesResponse:
        """Needs the spool."""
        _refuse()

    async def DeleteCapture(self, request: pb.DeleteCaptureRequest, context: Context) -> pb.DeleteCaptureResponse:
        """Needs the spool."""
        _refuse()

    def _stop_before(self, request: pb.CaptureRequest) -> int | None:
        if not request.HasField("stop_at_layer"):
            return None
        layers = self._engine.model(request.model_id).layout.num_layers
        if not 1 <= request.stop_at_layer <= layers:
            raise InvalidRequestError(f"stop_at_layer is between 1 and {layers}", field="stop_at_layer")
        return request.stop_at_layer if request.stop_at_layer < layers else None


def _refuse() -> NoReturn:
    raise NotImplementedByEngineError("this version keeps no captures on disk")
