"""Models of a service, and their tokens: a part of both clients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing, closing
from os import PathLike, fspath
from typing import SupportsIndex

from neuroscope import requests
from neuroscope.calling import AsyncCaller, Caller
from neuroscope.errors import StreamingError
from neuroscope.model_info import ModelInfo, Tokens
from neuroscope.progress import LoadListener, load_listener
from neuroscope.prompts import Prompt
from neuroscope.tensors import Array
from neuroscope.v1 import inference_pb2 as pb


class ModelCalls(Caller):
    """What `Client` does with models."""

    def load_model(
        self,
        model_path: str | PathLike[str],
        *,
        model_id: str = "",
        revision: str = "",
        adapter_path: str | PathLike[str] = "",
        progress: LoadListener = False,
    ) -> pb.Model:
        """Loads a model into the service and waits until it is ready.

        Args:
            model_path: a folder with config.json and safetensors, at the service, or a Hugging Face id.
            model_id: name for later requests; empty: the last part of the path.
            revision: branch, tag or commit on the hub.
            adapter_path: folder of a LoRA adapter.
            progress: True shows a bar; a function is called with every `LoadProgress`.

        Raises:
            ModelNotFoundError, ModelCorruptError, ModelUnsupportedError, IdTakenError
        """
        call = requests.load_model(
            fspath(model_path), model_id=model_id, revision=revision, adapter_path=fspath(adapter_path)
        )
        with (
            self._span(call.name),
            load_listener(progress) as report,
            closing(self._transport.stream(call.rpc, call.request)) as events,
        ):
            for event in events:
                if (model := requests.loaded(event, report)) is not None:
                    return model
        raise StreamingError("the load ended without a model")

    def unload_model(self, model_id: str) -> None:
        """Frees a model.

        Raises:
            ModelNotFoundError: no model has that name.
        """
        return self._unary(requests.unload_model(model_id))

    def models(self) -> list[pb.Model]:
        """The loaded models, in the order in which they were loaded."""
        return self._unary(requests.models())

    def model(self, model_id: str = "") -> ModelInfo:
        """Describes a model and every point of it that can be captured; without a name: the one loaded first."""
        return self._unary(requests.model(model_id))

    def tokenize(self, prompt: Prompt, *, model_id: str = "", bos: bool | None = None) -> Tokens:
        """The token ids of a prompt, as the model would read them.

        Args:
            prompt: a text, a conversation or token ids.
            model_id: empty: the one loaded first.
            bos: True puts a beginning-of-sequence token in front, False leaves it out, None does what the tokenizer
                does by itself.

        Warns:
            DoubledBosWarning: the ids begin with two beginning-of-sequence tokens.
        """
        return self._unary(requests.tokenize(prompt, model_id=model_id, bos=bos))

    def detokenize(
        self, ids: Iterable[SupportsIndex] | Array, *, model_id: str = "", skip_special_tokens: bool = False
    ) -> str:
        """The text of token ids."""
        return self._unary(requests.detokenize(ids, model_id=model_id, skip_special_tokens=skip_special_tokens))


class AsyncModelCalls(AsyncCaller):
    """What `AsyncClient` does with models; the docstrings of `ModelCalls` hold here too."""

    async def load_model(
        self,
        model_path: str | PathLike[str],
        *,
        model_id: str = "",
        revision: str = "",
        adapter_path: str | PathLike[str] = "",
        progress: LoadListener = False,
    ) -> pb.Model:
        """Loads a model into the service and waits until it is ready."""
        call = requests.load_model(
            fspath(model_path), model_id=model_id, revision=revision, adapter_path=fspath(adapter_path)
        )
        with self._span(call.name), load_listener(progress) as report:
            async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
                async for event in events:
                    if (model := requests.loaded(event, report)) is not None:
                        return model
        raise StreamingError("the load ended without a model")

    async def unload_model(self, model_id: str) -> None:
        """Frees a model."""
        return await self._unary(requests.unload_model(model_id))

    async def models(self) -> list[pb.Model]:
        """The loaded models, in the order in which they were loaded."""
        return await self._unary(requests.models())

    async def model(self, model_id: str = "") -> ModelInfo:
        """Describes a model and every point of it that can be captured; without a name: the one loaded first."""
        return await self._unary(requests.model(model_id))

    async def tokenize(self, prompt: Prompt, *, model_id: str = "", bos: bool | None = None) -> Tokens:
        """The token ids of a prompt, as the model would read them."""
        return await self._unary(requests.tokenize(prompt, model_id=model_id, bos=bos))

    async def detokenize(
        self, ids: Iterable[SupportsIndex] | Array, *, model_id: str = "", skip_special_tokens: bool = False
    ) -> str:
        """The text of token ids."""
        return await self._unary(requests.detokenize(ids, model_id=model_id, skip_special_tokens=skip_special_tokens))
