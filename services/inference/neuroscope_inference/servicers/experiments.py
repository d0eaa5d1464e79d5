"""ExperimentService: sweeps and attributions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from opentelemetry.context import Context

from neuroscope.codec import Event
from neuroscope.frames import FramePacker
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.attributions.request import AllowedAttribution, attribution_of
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.engine.sweeps.request import Allowed, sweep_of
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.sharing import slice_bytes
from neuroscope_inference.tensor_references import TensorReferences


class ExperimentServicer:
    """Implements neuroscope.v1.ExperimentService."""

    def __init__(self, engine: Engine, tensors: TensorReferences, settings: InferenceSettings) -> None:
        self._engine = engine
        self._resolve = tensors.resolve_tensor
        self._allowed = Allowed(settings.max_prompts, settings.sweep_max_patches, settings.sweep_batch_bytes)
        self._allowed_attribution = AllowedAttribution(settings.max_prompts, settings.sweep_batch_bytes)

    async def RunSweep(self, request: pb.RunSweepRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Checks the whole sweep, then streams its plan, values and end."""
        model = self._engine.model(request.model_id)
        # Not on the event loop: tensors may lie on disk.
        sweep = await asyncio.to_thread(sweep_of, request, model, self._resolve, self._allowed)
        stream = self._engine.start(sweep.run(), model=model)
        try:
            async with aclosing(stream.items()) as events:
                async for event in events:
                    yield event
        finally:
            stream.close()

    async def Attribute(self, request: pb.AttributeRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Checks the whole attribution, then streams its plan, progress, scores and end."""
        model = self._engine.model(request.model_id)
        checked = attribution_of, request, model, self._resolve, self._allowed_attribution
        attribution = await asyncio.to_thread(*checked)  # tensors may lie on disk
        stream = self._engine.start(attribution.run(), model=model, size=_held)
        packer: FramePacker | None = None
        try:
            async with aclosing(stream.items()) as events:
                async for event in events:
                    if not isinstance(event, StepResult):
                        if event.HasField("plan"):
                            packer = FramePacker(list(event.plan.tensors.tensors), slice_bytes(context))
                        yield event
                        continue
                    assert packer is not None
                    for frame in packer.pack(event.step, event.tensors):
                        yield frame
                    stream.release(event.nbytes)
        finally:
            stream.close()


def _held(item: pb.AttributeResponse | StepResult) -> int:
    return item.nbytes if isinstance(item, StepResult) else 0
