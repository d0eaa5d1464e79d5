"""DictionaryService: sparse autoencoders and transcoders of the loaded models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from opentelemetry.context import Context

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.dictionaries.loading import CheckedDictionary, check_dictionary
from neuroscope_inference.engine.dictionaries.weights import open_folder
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.hub import local_folder
from neuroscope_inference.model_dirs import ModelDirs
from neuroscope_inference.tensor_references import TensorReferences


class DictionaryServicer:
    """Implements neuroscope.v1.DictionaryService.

    Args:
        dirs: where callers may load from: the folders of models.
        tensors: finds uploaded ones.
    """

    def __init__(self, engine: Engine, dirs: ModelDirs, tensors: TensorReferences) -> None:
        self._engine = engine
        self._dirs = dirs
        self._tensors = tensors

    async def LoadDictionary(self, request: pb.LoadDictionaryRequest, context: Context) -> pb.LoadDictionaryResponse:
        """Checks a dictionary against its model and keeps it."""
        model = self._engine.model(request.model_id)
        registry = self._engine.registry
        if request.WhichOneof("source") == "path":
            self._dirs.check(request.path, "path")
        checked = await asyncio.to_thread(self._check, request, model)
        dictionary_id = checked.description.dictionary_id
        registry.dictionaries.check_free(dictionary_id)
        registry.check_room(dictionary_id, checked.description.length_bytes)
        await self._engine.call(lambda: registry.add_dictionary(checked.build(model), model))
        return pb.LoadDictionaryResponse(dictionary=checked.description)

    async def UnloadDictionary(
        self, request: pb.UnloadDictionaryRequest, context: Context
    ) -> pb.UnloadDictionaryResponse:
        """Frees a dictionary."""
        library = self._engine.registry.dictionaries
        await self._engine.call(lambda: library.remove(request.dictionary_id, "dictionary_id"))
        return pb.UnloadDictionaryResponse()

    async def ListDictionaries(
        self, request: pb.ListDictionariesRequest, context: Context
    ) -> pb.ListDictionariesResponse:
        """Lists the dictionaries of a model, or all."""
        if request.model_id:
            self._engine.model(request.model_id)
        models = [model.description.model_id for model in self._engine.models()]
        wanted = [request.model_id] if request.model_id else models
        found = [entry.description for name in wanted for entry in self._engine.registry.dictionaries.of_model(name)]
        return pb.ListDictionariesResponse(dictionaries=found)

    async def GetDictionary(self, request: pb.GetDictionaryRequest, context: Context) -> pb.GetDictionaryResponse:
        """Describes a dictionary."""
        found = self._engine.registry.dictionaries.get(request.dictionary_id, "dictionary_id")
        return pb.GetDictionaryResponse(dictionary=found.description)

    def _check(self, request: pb.LoadDictionaryRequest, model: LoadedModel) -> CheckedDictionary:
        """Not on the event loop: files and tensors may lie on disk."""
        match request.WhichOneof("source"):
            case "path":
                files = open_folder(local_folder(request.path), request.path, "path")
                return check_dictionary(request, model, files.configuration, files.tensors, "path")
            case "parts":
                tensors = self._resolve_parts(request.parts)
                return check_dictionary(request, model, request.parts.configuration, tensors, "parts")
            case _:
                raise InvalidRequestError("where the dictionary is, is missing: a path, or its parts", field="path")

    def _resolve_parts(self, parts: pb.DictionaryParts) -> Mapping[str, Array]:
        found: dict[str, Array] = {}
        for index, part in enumerate(parts.tensors):
            field = f"parts.tensors[{index}]"
            if part.name in found:
                raise InvalidRequestError(f"tensor {part.name!r} is there twice", field=f"{field}.name")
            found[part.name] = self._tensors.resolve_tensor(part.tensor, f"{field}.tensor")
        return found
