"""Model and tokenizer methods of both clients."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from typing import SupportsIndex

from neuroscope.base_client.call import Call, CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import LoadListener, load_listener
from neuroscope.calls import requests
from neuroscope.errors import StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.model_info import ModelInfo, Tokens
from neuroscope.vocabulary.prompts import Prompt
from neuroscope.vocabulary.tensors import Array


class ModelCalls:
    """Model and tokenizer methods."""

    @client_method
    def load_model(
        self,
        model_path: str | PathLike[str],
        *,
        model_id: str = "",
        revision: str = "",
        adapter_path: str | PathLike[str] = "",
        dtype: str = "",
        dequantize: bool | None = None,
        progress: LoadListener = False,
    ) -> CallFlow[pb.Model]:
        """Loads a model into the service and waits until it is ready.

        Args:
            model_path: a folder with config.json and safetensors or a GGUF file, at the service; a Hugging Face id; or
                the name of a model from `neuroscope models get`, such as smollm2.
            model_id: id for later requests; empty: the last part of the path.
            revision: branch, tag or commit on the hub.
            adapter_path: folder of a LoRA adapter.
            dtype: float32, float16 or bfloat16, in which the model computes; empty: that of the files, and float32 for
                GGUF on MLX's CPU backend.
            dequantize: whether quantised weights become plain ones of that type; None: those of a GGUF file do on MLX's
                CPU backend, which is slow with quantised ones, where memory holds them. `Model.notes` says so.
            progress: True shows a bar; a function is called with every `LoadProgress`.

        Raises:
            ModelNotFoundError, ModelCorruptError, ModelUnsupportedError, IdTakenError
        """
        path, adapter = fspath(model_path), fspath(adapter_path)
        found: list[pb.Model] = []
        with load_listener(progress) as report:
            loading = requests.load_model(
                path,
                report,
                model_id=model_id,
                revision=revision,
                adapter_path=adapter,
                dtype=dtype,
                dequantize=dequantize,
            )
            yield from loading.each(found.append)
        if found:
            return found[-1]
        raise StreamingError("the load ended without a model")

    @client_method
    def unload_model(self, model_id: str) -> Call[None]:
        """Frees a model.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        return requests.unload_model(model_id)

    @client_method
    def models(self) -> Call[list[pb.Model]]:
        """The loaded models, in order of loading."""
        return requests.models()

    @client_method
    def model(self, model_id: str = "") -> Call[ModelInfo]:
        """Describes a model and its hook points; default: the model loaded first."""
        return requests.model(model_id)

    @client_method
    def tokenize(self, prompt: Prompt, *, model_id: str = "", bos: bool | None = None) -> Call[Tokens]:
        """The token ids of a prompt.

        Args:
            prompt: a text, a conversation or token ids.
            model_id: empty: the one loaded first.
            bos: True prepends a beginning-of-sequence token, False does not, None uses the tokenizer's default.

        Warns:
            DoubledBosWarning: the ids begin with two beginning-of-sequence tokens.
        """
        return requests.tokenize(prompt, model_id=model_id, bos=bos)

    @client_method
    def detokenize(
        self, ids: Iterable[SupportsIndex] | Array, *, model_id: str = "", skip_special_tokens: bool = False
    ) -> Call[str]:
        """The text of token ids."""
        return requests.detokenize(ids, model_id=model_id, skip_special_tokens=skip_special_tokens)
