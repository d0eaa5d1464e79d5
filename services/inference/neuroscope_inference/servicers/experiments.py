"""ExperimentService: sweeps, attributions, weights and what vectors predict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from google.protobuf.message import Message
from opentelemetry.context import Context

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import weights_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FramePacker
from neuroscope_inference.engine.attributions.request import AttributionLimits, parse_attribution
from neuroscope_inference.engine.edges.model_graph import describe_edge_graph
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import PortionResult, StepResult
from neuroscope_inference.engine.sweeps.request import SweepLimits, parse_sweep
from neuroscope_inference.engine.vocabulary_projection import parse_projection
from neuroscope_inference.engine.weights.reader import parse_reading
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.shared_memory_pool import slice_bytes
from neuroscope_inference.tensor_references import TensorReferences

TensorResult = StepResult | PortionResult


class ExperimentServicer:
    """Implements neuroscope.v1.ExperimentService."""

    def __init__(self, engine: Engine, tensors: TensorReferences, settings: InferenceSettings) -> None:
        self._engine = engine
        self._resolve = tensors.resolve_tensor
        self._sweep_limits = SweepLimits(settings.max_prompts, settings.sweep_max_patches, settings.sweep_batch_bytes)
        self._attribution_limits = AttributionLimits(settings.max_prompts, settings.sweep_batch_bytes)

    async def RunSweep(self, request: pb.RunSweepRequest, context: Context) -> AsyncGenerator[Event, None]:
        """Checks the whole sweep, then streams its plan, values and end."""
        model = self._engine.model(request.model_id)
        # Not on the event loop: tensors may lie on disk.
        sweep = await asyncio.to_thread(parse_sweep, request, model, self._resolve, self._sweep_limits)
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
        checked = parse_attribution, request, model, self._resolve, self._attribution_limits
        attribution = await asyncio.to_thread(*checked)  # tensors may lie on disk
        async for event in self._stream(attribution.run(), model, context):
            yield event

    async def GetEdgeGraph(self, request: pb.GetEdgeGraphRequest, context: Context) -> pb.GetEdgeGraphResponse:
        """Describes the graph of a model."""
        model = self._engine.model(request.model_id)
        return await self._engine.call(lambda: describe_edge_graph(model, "model_id"))

    async def ReadWeights(
        self, request: weights_pb2.ReadWeightsRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Streams the plan of the weights, their tensors or summaries, and the end."""
        model = self._engine.model(request.model_id)
        async for event in self._stream(parse_reading(request, model).run(), model, context):
            yield event

    async def ProjectToVocabulary(
        self, request: pb.ProjectToVocabularyRequest, context: Context
    ) -> AsyncGenerator[Event, None]:
        """Streams the plan of a projection, its results and the end."""
        model = self._engine.model(request.model_id)
        projection = await asyncio.to_thread(parse_projection, request, model, self._resolve)  # tensors may lie on disk
        async for event in self._stream(projection.run(), model, context):
            yield event

    async def _stream(
        self, work: Iterator[Message | TensorResult | None], model: LoadedModel, context: Context
    ) -> AsyncGenerator[Event, None]:
        """The events of a job: messages, of which the plan names the tensors, and tensors in frames."""
        stream = self._engine.start(work, model=model, size=_payload_bytes)
        packer: FramePacker | None = None
        try:
            async with aclosing(stream.items()) as events:
                async for event in events:
                    if not isinstance(event, TensorResult):
                        if event.HasField("plan"):
                            packer = FramePacker(list(event.plan.tensors.tensors), slice_bytes(context))
                        yield event
                        continue
                    assert packer is not None
                    for frame in _frames(packer, event):
                        yield frame
                    stream.release(event.nbytes)
        finally:
            stream.close()


def _frames(packer: FramePacker, made: TensorResult) -> Iterator[Frame]:
    if isinstance(made, PortionResult):
        return packer.pack_part(made.step, made.portion)
    return packer.pack(made.step, made.tensors)


def _payload_bytes(item: Message | TensorResult) -> int:
    return item.nbytes if isinstance(item, TensorResult) else 0
