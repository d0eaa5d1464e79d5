"""ExperimentService: sweeps, attributions, weights and what vectors predict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from google.protobuf.message import Message
from opentelemetry.context import Context

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import weights_pb2
from neuroscope.wire.codec import Event, Framed
from neuroscope.wire.frames import FramePacker
from neuroscope_inference.engine.attributions.request import AttributionLimits, attribution_of
from neuroscope_inference.engine.edges.model_graph import described
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import PortionResult, StepResult
from neuroscope_inference.engine.sweeps.request import SweepLimits, sweep_of
from neuroscope_inference.engine.vocabulary import projection_of
from neuroscope_inference.engine.weights.reading import reading_of
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.sharing import slice_bytes
from neuroscope_inference.tensor_references import TensorReferences

Made = StepResult | PortionResult


class ExperimentServicer:
    """Implements neuroscope.v1.ExperimentService."""

    def __init__(self, engine: Engine, tensors: TensorReferences, settings: InferenceSettings) -> None:
        self._engine = engine
        self._resolve = tensors.resolve_tensor
        self._allowed = SweepLimits(settings.max_prompts, settings.sweep_max_patches, settings.sweep_batch_bytes)
        self._allowed_attribution = AttributionLimits(settings.max_prompts, settings.sweep_batch_bytes)

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
        async for event in self._framed(attribution.run(), model, context):
            yield event

    async def GetEdgeGraph(self, request: pb.GetEdgeGraphRequest, context: Context) -> pb.GetEdgeGraphResponse:
        """Describes the graph of a model."""
        model = self._engine.model(request.model_id)
        return await self._engine.call(lambda: described(model, "model_id"))

    async def ReadWeights(
        self, request: weights_pb2.ReadWeightsRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Streams the plan of the weights, their tensors or summaries, and the end."""
        model = self._engine.model(request.model_id)
        async for event in self._framed(reading_of(request, model).run(), model, context):
            yield event

    async def ProjectToVocabulary(
        self, request: pb.ProjectToVocabularyRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Streams the plan of a projection, its results and the end."""
        model = self._engine.model(request.model_id)
        projection = await asyncio.to_thread(projection_of, request, model, self._resolve)  # tensors may lie on disk
        async for event in self._framed(projection.run(), model, context):
            yield event

    async def _framed(
        self, work: Iterator[Message | Made | None], model: LoadedModel, context: Context
    ) -> AsyncGenerator[Event, None]:
        """The events of a job: messages, of which the plan names the tensors, and tensors in frames."""
        stream = self._engine.start(work, model=model, size=_held)
        packer: FramePacker | None = None
        try:
            async with aclosing(stream.items()) as events:
                async for event in events:
                    if not isinstance(event, Made):
                        if event.HasField("plan"):
                            packer = FramePacker(list(event.plan.tensors.tensors), slice_bytes(context))
                        yield event
                        continue
                    assert packer is not None
                    for frame in _packed(packer, event):
                        yield frame
                    stream.release(event.nbytes)
        finally:
            stream.close()


def _packed(packer: FramePacker, made: Made) -> Iterator[Framed]:
    if isinstance(made, PortionResult):
        return packer.pack_portion(made.step, made.portion)
    return packer.pack(made.step, made.tensors)


def _held(item: Message | Made) -> int:
    return item.nbytes if isinstance(item, Made) else 0
