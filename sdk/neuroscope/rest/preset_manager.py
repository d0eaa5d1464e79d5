"""Hooks for common questions and scenarios to ask them in, made by the gateway for a loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroscope.rest.gateway import GatewayConnection
from neuroscope.rest.hook_spec import ActivationHookSpec

_PRESETS = "/v1/activations/presets"


@dataclass(frozen=True, slots=True)
class UnavailableHook:
    """What a preset would look at and the model does not have."""

    layer_name: str
    component: str
    reason: str


@dataclass(frozen=True, slots=True)
class Preset:
    """Hooks for a question."""

    name: str
    description: str
    model_id: str
    layers: tuple[int, ...]
    hooks: tuple[ActivationHookSpec, ...]
    """For a generation, or for registration."""
    unavailable: tuple[UnavailableHook, ...]

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> Preset:
        """A preset object of REST."""
        return cls(
            name=data["name"],
            description=data["description"],
            model_id=data["model"],
            layers=tuple(data["layers"]),
            hooks=tuple(ActivationHookSpec.from_api_format(hook) for hook in data["activation_hooks"]),
            unavailable=tuple(
                UnavailableHook(missing["layer_name"], missing["component"], missing["reason"])
                for missing in data["unavailable"]
            ),
        )


@dataclass(frozen=True, slots=True)
class ScenarioRequest:
    """A request of a scenario, as the arguments of `generate_with_activations`.

    client.generate_with_activations(request.messages, request.hooks, **request.parameters)
    """

    messages: tuple[dict[str, str], ...]
    hooks: tuple[ActivationHookSpec, ...]
    parameters: dict[str, Any]

    @classmethod
    def from_api_format(cls, data: Mapping[str, Any]) -> ScenarioRequest:
        """The body of a request for `/v1/chat/completions/with_activations`."""
        rest = {name: value for name, value in data.items() if name not in ("messages", "activation_hooks")}
        hooks = tuple(ActivationHookSpec.from_api_format(hook) for hook in data["activation_hooks"])
        return cls(tuple(dict(message) for message in data["messages"]), hooks, rest)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Requests that show something, and the preset whose hooks they have."""

    name: str
    description: str
    preset: str
    requests: tuple[ScenarioRequest, ...]


class PresetManager:
    """Presets (circuit_discovery, attention_analysis, mlp_analysis, residual_stream, comprehensive) and scenarios.

    Args:
        gateway: the connection.
    """

    def __init__(self, gateway: GatewayConnection) -> None:
        self._gateway = gateway

    def get(self, name: str, layers: Sequence[int] | None = None, *, model_id: str = "") -> Preset:
        """A preset for some layers of a model.

        Args:
            name: of the preset.
            layers: from 0; None: all.
            model_id: a loaded model; empty: the one that was loaded first.

        Raises:
            InvalidRequestError: there is no such preset, or no such layer.
            ModelNotFoundError: no model has that name.
        """
        query = _model(model_id) | ({} if layers is None else {"layers": list(layers)})
        return Preset.from_api_format(self._gateway.request("GET", f"{_PRESETS}/{name}", query=query))

    def list(self, *, model_id: str = "") -> list[Preset]:
        """Every preset, for every layer of a model."""
        return [Preset.from_api_format(preset) for preset in self._all(model_id)["presets"]]

    def scenarios(self, *, model_id: str = "") -> list[Scenario]:
        """Every scenario, with hooks in a few layers of a model."""
        return [
            Scenario(
                name=told["name"],
                description=told["description"],
                preset=told["preset"],
                requests=tuple(ScenarioRequest.from_api_format(request) for request in told["requests"]),
            )
            for told in self._all(model_id)["scenarios"]
        ]

    def _all(self, model_id: str) -> Any:
        return self._gateway.request("GET", _PRESETS, query=_model(model_id))


def _model(model_id: str) -> dict[str, Any]:
    return {"model": model_id} if model_id else {}
