"""ModelService: loading, describing and freeing models, and their tokenizers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from opentelemetry.context import Context

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference import hub
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.loading import LoadRequest
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.weights_form import WeightsForm
from neuroscope_inference.model_dirs import ModelDirs


class ModelServicer:
    """Implements neuroscope.v1.ModelService.

    Args:
        dirs: where callers may load from.
        self_test_cache: where self-test results of the self-test are kept; None: every load proves the model.
    """

    def __init__(self, engine: Engine, dirs: ModelDirs, self_test_cache: Path | None = None) -> None:
        self._engine = engine
        self._dirs = dirs
        self._self_test_cache = self_test_cache

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: Context
    ) -> AsyncGenerator[pb.LoadModelResponse, None]:
        """Streams progress, then the model."""
        if not request.model_path:
            raise InvalidRequestError(
                "model_path is missing: a folder, a GGUF file or a Hugging Face id", field="model_path"
            )
        self._dirs.check(request.model_path, "model_path")
        if request.adapter_path:
            self._dirs.check(request.adapter_path, "adapter_path")
        form, folder = WeightsForm.of(request), Path()
        async with aclosing(hub.locate(request.model_path, request.revision, form.dtype)) as located:
            async for found in located:
                if isinstance(found, Path):
                    folder = found
                else:
                    yield pb.LoadModelResponse(progress=found)
        model_id = request.model_id or hub.default_id(request.model_path)
        wanted = LoadRequest(
            folder,
            request.model_path,
            model_id,
            request.adapter_path,
            self._self_test_cache,
            form,
            self._engine.registry.budget_bytes,
        )
        stream = self._engine.load(wanted)
        try:
            async with aclosing(stream.items()) as events:
                async for event in events:
                    if isinstance(event, LoadedModel):
                        yield pb.LoadModelResponse(model=event.description)
                    else:
                        yield pb.LoadModelResponse(progress=event)
        finally:
            stream.close()

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """Frees a model."""
        if not request.model_id:
            raise InvalidRequestError("model_id is missing", field="model_id")
        await self._engine.unload(request.model_id)
        return pb.UnloadModelResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the loaded models."""
        return pb.ListModelsResponse(models=[model.description for model in self._engine.models()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describes a model and its points."""
        return self._engine.model(request.model_id).describe()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Turns a prompt into token ids."""
        model = self._engine.model(request.model_id)
        prompt = await asyncio.to_thread(model.tokenize, request.prompt, "prompt")
        tokens = [model.token_text(token_id) for token_id in prompt.ids]
        return pb.TokenizeResponse(token_ids=prompt.ids, tokens=tokens, warnings=prompt.warnings)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Turns token ids into text."""
        model = self._engine.model(request.model_id)
        text = await asyncio.to_thread(
            model.detokenize, list(request.token_ids), skip_special_tokens=request.skip_special_tokens
        )
        return pb.DetokenizeResponse(text=text)
