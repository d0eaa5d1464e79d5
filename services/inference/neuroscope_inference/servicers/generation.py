"""GenerationService: text and activations, step by step."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.codec import Event
from neuroscope.errors import IdTakenError, InvalidRequestError, NotImplementedByEngineError, UnknownIdError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.run import Credit
from neuroscope_inference.engine.sampling import Sampler
from neuroscope_inference.servicers.running import Runner


class GenerationServicer:
    """Implements neuroscope.v1.GenerationService."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner
        self._running: dict[str, Credit] = {}

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Streams frames, tokens and the manifest."""
        sampler = Sampler.of(request.sampling)
        generation_id = request.generation_id or uuid.uuid4().hex
        if generation_id in self._running:
            raise IdTakenError(f"generation {generation_id!r} is running already", field="generation_id")
        credit = self._running[generation_id] = Credit(request.max_steps_ahead or None)
        try:
            prepared = await self._runner.prepare(
                request, generation_id, context, max_new_tokens=sampler.max_tokens, credit=credit
            )
            prepared.seed = sampler.seed
            work = prepared.run.generate(sampler)
            async with aclosing(self._runner.events(prepared, work, pb.GenerateResponse)) as events:
                async for event in events:
                    yield event
        finally:
            del self._running[generation_id]

    async def Steer(self, request: pb.SteerRequest, context: Context) -> pb.SteerResponse:
        """Interventions come with the engine that applies them."""
        raise NotImplementedByEngineError(
            "interventions are not applied by this version's engine", field="interventions"
        )

    async def AdvanceGeneration(
        self, request: pb.AdvanceGenerationRequest, context: Context
    ) -> pb.AdvanceGenerationResponse:
        """Adds credit to a running generation."""
        credit = self._running.get(request.generation_id)
        if credit is None:
            valid = nearest(request.generation_id, self._running)
            raise UnknownIdError(
                f"no generation {request.generation_id!r} is running", field="generation_id", valid=valid
            )
        if credit.granted_steps is None:
            raise InvalidRequestError("the generation runs freely: max_steps_ahead was 0", field="generation_id")
        if not request.steps:
            raise InvalidRequestError("steps is at least 1", field="steps")
        credit.granted_steps += request.steps
        self._engine.wake()
        return pb.AdvanceGenerationResponse(granted_steps=credit.granted_steps)
