"""The inference service without a transport: dispatches traced calls by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message

from neuroscope.cache_folder import cache_folder
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import RPCS, Rpc
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model_registry import ModelRegistry
from neuroscope_inference.model_dirs import ModelDirs
from neuroscope_inference.servicers.captures import CaptureServicer
from neuroscope_inference.servicers.dictionaries import DictionaryServicer
from neuroscope_inference.servicers.experiments import ExperimentServicer
from neuroscope_inference.servicers.generation import GenerationServicer
from neuroscope_inference.servicers.hooks import HookServicer
from neuroscope_inference.servicers.models import ModelServicer
from neuroscope_inference.servicers.runner import Runner
from neuroscope_inference.servicers.stream_recorder import StreamRecorder
from neuroscope_inference.servicers.telemetry import TelemetryServicer
from neuroscope_inference.servicers.tensors import TensorServicer
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.shared_memory_pool import SharedMemoryPool
from neuroscope_inference.spool.spool import Spool
from neuroscope_inference.spool.spooled_tensors import SpooledTensors
from neuroscope_inference.tensor_references import TensorReferences
from neuroscope_inference.tensor_store import TensorStore
from neuroscope_inference.workload import Workload
from neuroscope_serving.spans import Metadata, server_span
from neuroscope_serving.stream_limiter import StreamLimiter

_log = logging.getLogger(__name__)

IN_PROCESS = "in process"
"""The client name of in-process callers."""


class InferenceService:
    """Dispatches calls to the servicers; raises the errors of `neuroscope.errors`."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.engine = Engine(
            settings.stream_limit_bytes, settings.prompt_cache_bytes, ModelRegistry(settings.model_memory_bytes)
        )
        self._limiter = StreamLimiter(settings.max_streams_per_client, settings.max_streams)
        self._shared_memory = SharedMemoryPool(settings.shared_memory_bytes)
        self.workload = Workload(self.engine, self._limiter, self._shared_memory)
        hooks = HookServicer(self.engine)
        store = TensorStore(settings.tensor_max_bytes, settings.tensor_ttl_seconds)
        spool = Spool(settings.spool_folder, settings.spool_max_bytes, settings.spool_ttl_seconds)
        references = TensorReferences(store, SpooledTensors(spool))
        runner = Runner(self.engine, hooks, references, settings)
        self._recorder = StreamRecorder(spool, self.engine, hooks)
        generation = GenerationServicer(self.engine, runner, self._recorder)
        dirs = ModelDirs(settings.model_dirs, settings.model)
        servicers = (
            ModelServicer(
                self.engine,
                dirs,
                cache_folder("self-tests") if settings.cache_self_tests else None,
            ),
            hooks,
            generation,
            CaptureServicer(self.engine, runner, self._recorder, generation),
            ExperimentServicer(self.engine, references, settings),
            TensorServicer(store),
            DictionaryServicer(self.engine, dirs, references),
            TelemetryServicer(self.workload),
        )
        self._methods: dict[str, Callable[..., Any]] = {
            name: getattr(servicer, name) for servicer in servicers for name in RPCS if hasattr(servicer, name)
        }

    async def prepare(self) -> None:
        """Loads the models named in the settings, in order.

        Raises:
            neuroscope.errors.ModelError: a model cannot be loaded.
        """
        for path in self.settings.model:
            async with aclosing(self.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=path), ())) as events:
                async for event in events:
                    if isinstance(event, pb.LoadModelResponse) and event.HasField("model"):
                        _log.info("loaded %s", event.model.model_id)

    async def unary(self, rpc: Rpc, request: Event | AsyncIterator[Event], metadata: Metadata) -> Message:
        """Runs a call that returns one message."""
        with server_span(rpc, metadata) as context:
            return await self._methods[rpc.method](request, context)

    async def stream(
        self, rpc: Rpc, request: Event, metadata: Metadata, client: str = IN_PROCESS
    ) -> AsyncGenerator[Event, None]:
        """Runs a call that returns a stream. The number of streams per client is limited."""
        with server_span(rpc, metadata) as context, self._limiter.acquire(client):
            wanted = self._shared_memory.requested_region(metadata, client)
            if wanted:
                context = self._shared_memory.with_large_slices(context)
            answers = self._methods[rpc.method](request, context)
            async with aclosing(self._shared_memory.share_payloads(answers, wanted) if wanted else answers) as events:
                async for event in events:
                    yield event

    async def close(self) -> None:
        """Stops the engine. Running calls fail, and streams being recorded are aborted."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.engine.stop()
        self._recorder.close()
        self._shared_memory.close()
