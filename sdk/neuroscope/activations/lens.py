"""The logit lens on captured activations: what each layer's residual stream would predict.

nostalgebraist, "interpreting GPT: the logit lens" (2020): the final norm and the unembedding, applied to every layer.

    lens = LogitLens.from_folder("models/neuroscope-tiny")
    lens.logits(cache["resid_post", 5])                 (batch, position, vocabulary)
    lens.predictions(cache.stack("resid_post"))         top token of every layer and position

It uses numpy in float32 and the weights in the model's folder, and runs no model. At the last layer it is the model's
own prediction, up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelNotFoundError, ModelUnsupportedError
from neuroscope.vocabulary.tensors import Array

Float32Array = NDArray[np.float32]

MODEL_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "phi3", "olmo2", "gpt_oss")
"""Model types whose output is RMSNorm and a linear map, without scale, bias or softcap."""
_NORM = "model.norm.weight"
_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Predictions:
    """The likeliest tokens; axes are those of the activations without the last."""

    token_ids: NDArray[np.int64]
    probabilities: Float32Array


@dataclass(frozen=True, slots=True)
class LogitLens:
    """The final norm and unembedding of a model."""

    norm_weight: Float32Array
    """(d_model,)"""
    unembedding: Float32Array
    """(vocabulary, d_model)"""
    epsilon: float
    """Epsilon of the norm."""

    @classmethod
    def from_folder(cls, folder: str | Path) -> LogitLens:
        """The lens of a model in a local folder, config.json and safetensors.

        Raises:
            ModelNotFoundError: config.json or a tensor is missing.
            ModelUnsupportedError: the model type is not supported, or the weights are quantised.
        """
        folder = Path(folder)
        config_path = folder / "config.json"
        if not config_path.is_file():
            raise ModelNotFoundError(f"{folder} is no folder with a model: it has no config.json")
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        if config.get("model_type") not in MODEL_TYPES:
            raise ModelUnsupportedError(
                f"the lens knows the output of {', '.join(MODEL_TYPES)}, not that of {config.get('model_type')!r}",
                valid=MODEL_TYPES,
            )
        if "quantization" in config or "quantization_config" in config:
            raise ModelUnsupportedError("the lens does not read quantised weights")
        files = _files(folder)
        head = _HEAD if _HEAD in files and not config.get("tie_word_embeddings") else _EMBEDDING
        return cls(_read(files, _NORM), _read(files, head), float(config.get("rms_norm_eps", 1e-6)))

    def logits(self, residual: Array) -> Float32Array:
        """Logits (..., vocabulary) for a residual stream (..., d_model) of any float type."""
        x = residual.astype(np.float32)
        scale = 1 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * scale * self.norm_weight) @ self.unembedding.T

    def log_probabilities(self, residual: Array) -> Float32Array:
        """Natural log-probabilities (..., vocabulary)."""
        logits = self.logits(residual)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    def predictions(self, residual: Array) -> Predictions:
        """The likeliest token and its probability for each vector of a residual stream (..., d_model)."""
        logs = self.log_probabilities(residual)
        token_ids = logs.argmax(axis=-1)
        best = np.take_along_axis(logs, token_ids[..., None], axis=-1)[..., 0]
        return Predictions(token_ids, np.exp(best))


def _files(folder: Path) -> Mapping[str, Path]:
    """Maps tensor names to files."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with _open(path) as tensors:
            files.update(dict.fromkeys(tensors.keys(), path))
    return files


def _read(files: Mapping[str, Path], name: str) -> Float32Array:
    if name not in files:
        raise ModelNotFoundError(f"the model's safetensors have no {name}", field=name)
    with _open(files[name]) as tensors:
        array: Array = tensors.get_tensor(name)
    return array.astype(np.float32)


def _open(path: Path) -> AbstractContextManager[Any]:
    import safetensors

    return cast("Any", safetensors).safe_open(path, framework="np")  # its stub does not say what it gives
