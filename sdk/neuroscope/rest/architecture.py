"""What the gateway says of a model: its shape, and every point that can be hooked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from neuroscope.vocabulary.sites import Point


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A point of the vocabulary in a model."""

    component: str
    """Canonical name."""
    layer: int | None
    layer_name: str
    is_input: bool
    available: bool
    reason: str
    """Why it is not available; empty where it is."""
    axes: tuple[str, ...]
    """Meaning of each axis, outermost first: batch, position, head, ..."""
    dtype: str
    module_path: str

    @property
    def point(self) -> Point:
        """The point as the vocabulary names it."""
        return Point(self.component, self.layer, self.is_input)


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """A loaded model."""

    model_id: str
    model_path: str
    architecture: str
    """Architecture as the model's config.json names it, such as llama."""
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    vocab_size: int
    context_length: int
    """Longest sequence in tokens; 0 where the model does not say."""
    dtype: str
    parameter_count: int
    weights_bytes: int
    weights_hash: str = ""
    """Hash of the checkpoint, its quantisation and its adapter; empty where it is not known."""
    quantization: tuple[Mapping[str, Any], ...] = ()
    """Forms of quantised weights in memory: bits, group_size, mode, matrices."""
    notes: tuple[str, ...] = ()
    """What became of the files' weights as they were loaded."""
    hook_points: tuple[HookPoint, ...] = field(default=(), repr=False)
    """Every point of the vocabulary; empty in a list of models."""

    def find(self, point: Point) -> HookPoint | None:
        """What is known of a point; None where the model knows nothing of it."""
        return next((known for known in self.hook_points if known.point == point), None)

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> ModelArchitecture:
        """A model object of `/v1/models`, with or without its points."""
        told = _known(cls, data) | {"model_id": data["id"]}
        told |= {name: tuple(data.get(name, ())) for name in ("quantization", "notes")}
        told["hook_points"] = tuple(_point(point) for point in data.get("hook_points", ()))
        return cls(**told)


@dataclass(frozen=True, slots=True)
class ModelLoadResult:
    """A model that was loaded."""

    model_id: str
    """Its name in requests."""
    status: str
    supports_activations: bool
    architecture: ModelArchitecture
    """Its shape and its points."""


def _point(data: Mapping[str, Any]) -> HookPoint:
    told = _known(HookPoint, data)
    told["axes"] = tuple(told["axes"])
    return HookPoint(**told)


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are fields; a newer gateway may say more."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in data.items() if name in names}
