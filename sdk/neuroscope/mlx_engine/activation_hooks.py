"""Hooks of a model in this process, and what they captured."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from neuroscope.errors import IdTakenError, InvalidRequestError, UnknownIdError, nearest
from neuroscope.rest import ActivationHookSpec, CapturedActivation, DataFormat, DataSerializer
from neuroscope.rest.hook_manager import HookSpecLike
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope.wire.frames import TensorPiece

__all__ = [
    "ActivationHookManager",
    "ActivationHookSpec",
    "CapturedActivation",
    "ComponentType",
    "serialize_activations",
    "to_spec",
]

MAX_CAPTURED_BYTES = 1024**3


class ComponentType(StrEnum):
    """The ten components of the NeuroScope format. Finer names of the vocabulary serve wherever these do."""

    RESIDUAL = "residual"
    ATTENTION = "attention"
    MLP = "mlp"
    EMBEDDING = "embedding"
    LAYERNORM = "layernorm"
    ATTENTION_SCORES = "attention_scores"
    ATTENTION_PATTERN = "attention_pattern"
    KEY = "key"
    QUERY = "query"
    VALUE = "value"


class ActivationHookManager:
    """Registered hooks by id, and what they saw since it was cleared last.

    Args:
        max_captured_bytes: most bytes that are kept; what is older goes first.
    """

    def __init__(self, max_captured_bytes: int = MAX_CAPTURED_BYTES) -> None:
        if max_captured_bytes < 0:
            raise InvalidRequestError(f"{max_captured_bytes} bytes cannot be kept", field="max_captured_bytes")
        self.max_captured_bytes = max_captured_bytes
        self._specs: dict[str, ActivationHookSpec] = {}
        self._captured: deque[CapturedActivation] = deque()
        self._captured_bytes = 0

    @property
    def specs(self) -> list[ActivationHookSpec]:
        """The registered hooks, in the order of their registration."""
        return list(self._specs.values())

    def register(self, spec: ActivationHookSpec) -> str:
        """Registers a hook; returns its id.

        Raises:
            IdTakenError: a hook of that id is registered.
        """
        if spec.hook_id in self._specs:
            raise IdTakenError(f"hook {spec.hook_id!r} is registered already", field="hook_id")
        self._specs[spec.hook_id] = spec
        return spec.hook_id

    def unregister(self, hook_id: str) -> None:
        """Removes a hook; what it captured stays.

        Raises:
            UnknownIdError: no hook of that id is registered.
        """
        if self._specs.pop(hook_id, None) is None:
            valid = nearest(hook_id, self._specs)
            raise UnknownIdError(f"no hook {hook_id!r} is registered", field="hook_id", valid=valid)

    def clear(self) -> None:
        """Removes all hooks; what they captured stays."""
        self._specs.clear()

    def keep(self, activations: Iterable[CapturedActivation]) -> None:
        """Takes in what registered hooks saw."""
        for activation in activations:
            self._captured.append(activation)
            self._captured_bytes += activation.data.nbytes
        while self._captured_bytes > self.max_captured_bytes:
            self._captured_bytes -= self._captured.popleft().data.nbytes

    def captured(self) -> dict[str, list[CapturedActivation]]:
        """What was kept, by hook id, in the order captured."""
        found: dict[str, list[CapturedActivation]] = {}
        for activation in self._captured:
            found.setdefault(activation.hook_id, []).append(activation)
        return found

    def clear_captured(self) -> None:
        """Lets go of what was kept."""
        self._captured.clear()
        self._captured_bytes = 0


def serialize_activations(
    activations: Mapping[str, Sequence[CapturedActivation]], format: str = DataFormat.NUMPY
) -> dict[str, list[dict[str, Any]]]:
    """Activations by hook id as dictionaries.

    Args:
        activations: what a generation or `ModelKit.get_captured_activations` gave.
        format: numpy (arrays), base64 (little-endian bytes), metadata-only (no data), list or torch.

    Raises:
        DataConversionError: there is no such format, or it cannot carry a tensor.
    """
    return DataSerializer(format).serialize_all(activations)


def to_spec(hook: HookSpecLike) -> ActivationHookSpec:
    """A hook from itself, or from the object that REST takes."""
    return hook if isinstance(hook, ActivationHookSpec) else ActivationHookSpec.from_api_format(hook)


def captured_activation(
    piece: TensorPiece, spec: ActivationHookSpec, metadata: Mapping[str, Any]
) -> CapturedActivation:
    """A received tensor in the words of the hook that asked for it."""
    return CapturedActivation(
        hook_id=spec.hook_id,
        layer_name=piece.spec.layer_name,
        component=spec.component,
        shape=list(piece.array.shape),
        dtype=dtype_name(piece.spec.dtype),
        is_input=bool(spec.side_of(Point.from_message(piece.spec.site))),
        data=piece.array,
        metadata={**metadata, "step": piece.step, "first_position": piece.first_position},
    )
