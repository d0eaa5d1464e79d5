"""GenerationService: text and activations, step by step."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from opentelemetry.context import Context

from neuroscope.errors import IdTakenError, InvalidRequestError, UnknownIdError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope_inference.engine.answer_format import answer_formats, has_formats
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.run import Credit, Run
from neuroscope_inference.engine.sampling import Sampler
from neuroscope_inference.servicers.runner import Response, Runner
from neuroscope_inference.servicers.stream_recorder import StreamRecorder
from neuroscope_inference.spool.entry import StreamHeader


@dataclass(slots=True)
class RunningGeneration:
    """A generation that has not ended; its run is there once the request has been checked."""

    credit: Credit
    run: Run | None = None


class GenerationServicer:
    """Implements neuroscope.v1.GenerationService."""

    def __init__(self, engine: Engine, runner: Runner, keeper: StreamRecorder) -> None:
        self._engine = engine
        self._runner = runner
        self._recorder = keeper
        self._running: dict[str, RunningGeneration] = {}

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Streams frames, tokens and the manifest; a repeated request that is resumable gets what was kept."""
        generation_id = request.generation_id or uuid.uuid4().hex
        entry = None
        if request.resumable:
            request = self._recorder.resolve_defaults(request)
            entry = await self._recorder.find_committed(request, generation_id)
        if entry is None:
            credit = Credit(request.max_steps_ahead or None)
            events = self._run(
                request, generation_id, Sampler.from_message(request.sampling), credit, context, pb.GenerateResponse
            )
        else:
            events = self._recorder.replay(entry, pb.GenerateResponse)
        async with aclosing(events):
            async for event in events:
                yield event

    def restart(
        self, request: pb.GenerateRequest, header: StreamHeader, context: Context
    ) -> AsyncGenerator[Event, None]:
        """A new attempt of a kept generation that broke off, with the draws of the old one.

        It runs freely, whatever max_steps_ahead was: who has a stream sent again reads it and gives no credit.
        """
        sampling = pb.Sampling()
        sampling.CopyFrom(request.sampling)
        sampling.seed = header.seed
        return self._run(
            request, header.capture_id, Sampler.from_message(sampling), Credit(), context, pb.ResumeCaptureResponse
        )

    async def _run(
        self,
        request: pb.GenerateRequest,
        generation_id: str,
        sampler: Sampler,
        credit: Credit,
        context: Context,
        response: Response,
    ) -> AsyncGenerator[Event, None]:
        if generation_id in self._running:
            raise IdTakenError(f"generation {generation_id!r} is running already", field="generation_id")
        running = self._running[generation_id] = RunningGeneration(credit)
        try:
            prepared = await self._runner.prepare(
                request,
                generation_id,
                context,
                max_new_tokens=sampler.max_tokens,
                rows_per_prompt=sampler.rows_per_prompt,
                credit=credit,
            )
            model = prepared.run.forward.model
            sampler.penalties.check_vocabulary(model.description.vocab_size)
            formats = await asyncio.to_thread(answer_formats, model, request) if has_formats(request) else ()
            running.run = prepared.run
            prepared.seed = sampler.seed
            events = self._runner.events(prepared, prepared.run.generate(sampler, formats), response)
            if request.resumable:
                events = self._recorder.record(StreamHeader(generation_id, request, sampler.seed), events)
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            del self._running[generation_id]

    async def Steer(self, request: pb.SteerRequest, context: Context) -> pb.SteerResponse:
        """Replaces the edits of a running generation from its next step on; no interventions end them."""
        run = self._find(request.generation_id).run
        if run is None:
            raise UnknownIdError(f"generation {request.generation_id!r} has not begun yet", field="generation_id")
        forward, lengths = run.forward, [len(prompt) for prompt in run.prompts]
        edits = await self._runner.edit_plan(forward.model, request.interventions, lengths, run.max_new_tokens)
        return pb.SteerResponse(first_step=await self._engine.call(lambda: run.steer(edits)))

    async def AdvanceGeneration(
        self, request: pb.AdvanceGenerationRequest, context: Context
    ) -> pb.AdvanceGenerationResponse:
        """Adds credit to a running generation."""
        credit = self._find(request.generation_id).credit
        if credit.granted_steps is None:
            raise InvalidRequestError(
                "the generation runs freely: max_steps_ahead was 0, or it is run again", field="generation_id"
            )
        if not request.steps:
            raise InvalidRequestError("steps is at least 1", field="steps")
        credit.granted_steps += request.steps
        self._engine.wake()
        return pb.AdvanceGenerationResponse(granted_steps=credit.granted_steps)

    def _find(self, generation_id: str) -> RunningGeneration:
        running = self._running.get(generation_id)
        if running is None:
            valid = nearest(generation_id, self._running)
            raise UnknownIdError(f"no generation {generation_id!r} is running", field="generation_id", valid=valid)
        return running
