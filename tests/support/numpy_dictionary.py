"""Dictionaries in SAELens' layout, made at random and written by hand, and what they compute in plain numpy float64.

The referee of the engine's dictionaries: it shares nothing with it but the names of the tensors.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float64]
FEATURES = 48
EPSILON = 1e-5


@dataclass(frozen=True)
class NumpyDictionary:
    """A dictionary: its cfg.json and its tensors, float32."""

    configuration: dict[str, Any]
    tensors: dict[str, NDArray[np.float32]]

    def write(self, folder: Path) -> Path:
        """The folder that SAELens would have written."""
        folder.mkdir(parents=True)
        save_file(self.tensors, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps(self.configuration))
        return folder

    def encode(self, x: Any) -> Array:
        """Features (..., F) of activations (..., d_in)."""
        return self._encoded(self._normed(np.asarray(x, np.float64))[0])

    def decode(self, features: Array, x: Any) -> Array:
        """The reconstruction (..., d_out)."""
        x = np.asarray(x, np.float64)
        _, scale, shift = self._normed(x)
        found = features @ self._of("W_dec") + self._of("b_dec")
        if "W_skip" in self.tensors:
            found = found + x @ self._of("W_skip").T
        return found * scale + shift

    def changed(self, written: Any, x: Any, change: Any) -> Array:
        """An activation with features changed: written + (new - old) W_dec."""
        x = np.asarray(x, np.float64)
        old = self.encode(x)
        return np.asarray(written, np.float64) + (change(old) - old) @ self._of("W_dec") * self._normed(x)[1]

    def _normed(self, x: Array) -> tuple[Array, Any, Any]:
        match self.configuration.get("normalize_activations"):
            case "layer_norm":
                shift, scale = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
                return (x - shift) / (scale + EPSILON), scale, shift
            case "constant_norm_rescale":
                scale = np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(x.shape[-1])
                return x / scale, scale, 0.0
            case _:
                return x, 1.0, 0.0

    def _encoded(self, x: Array) -> Array:
        if self.configuration.get("apply_b_dec_to_input", True):
            x = x - self._of("b_dec")
        if "b_gate" in self.tensors:
            gate = x @ self._of("W_enc") + self._of("b_gate")
            magnitude = x @ (self._of("W_enc") * np.exp(self._of("r_mag"))) + self._of("b_mag")
            return np.where(gate > 0, np.maximum(magnitude, 0), 0)
        z = x @ self._of("W_enc") + self._of("b_enc")
        if "threshold" in self.tensors:
            return np.where(z > self._of("threshold"), np.maximum(z, 0), 0)
        k = self.configuration.get("k") or self.configuration.get("activation_fn_kwargs", {}).get("k")
        if k:
            ranks = np.argsort(np.argsort(-z, axis=-1), axis=-1)
            z = np.where(ranks < k, z, 0)
        return np.maximum(z, 0)

    def _of(self, name: str) -> Array:
        return self.tensors[name].astype(np.float64)


def make(
    architecture: str,
    hook_name: str,
    width: int,
    *,
    seed: int = 0,
    hook_name_out: str = "",
    **configuration: Any,
) -> NumpyDictionary:
    """A random dictionary, of which about a third of the features is active anywhere."""
    draw = np.random.default_rng([seed, width])

    def normal(*shape: int) -> NDArray[np.float32]:
        return draw.standard_normal(shape).astype(np.float32)

    decoder = normal(FEATURES, width)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    tensors = {
        "W_enc": (decoder.T + 0.1 * normal(width, FEATURES)).astype(np.float32),
        "W_dec": decoder,
        "b_dec": 0.1 * normal(width),
    }
    metadata = {"model_name": "a model", "hook_name": hook_name}
    is_transcoder = "transcoder" in architecture
    if architecture == "gated":
        tensors |= {name: 0.2 * normal(FEATURES) for name in ("b_gate", "b_mag", "r_mag")}
    else:
        tensors["b_enc"] = 0.1 * normal(FEATURES)
    if architecture.startswith(("jumprelu", "batchtopk")):
        tensors["threshold"] = np.abs(0.3 * normal(FEATURES))
    if architecture == "topk":
        configuration.setdefault("k", 7)
    if "skip" in architecture:
        tensors["W_skip"] = 0.05 * normal(width, width)
    if is_transcoder:
        metadata["hook_name_out"] = hook_name_out
    found = {
        "architecture": architecture,
        "d_in": width,
        "d_sae": FEATURES,
        "dtype": "float32",
        "apply_b_dec_to_input": not is_transcoder,
        "normalize_activations": "none",
        "metadata": metadata,
    }
    return NumpyDictionary(found | configuration, tensors)
