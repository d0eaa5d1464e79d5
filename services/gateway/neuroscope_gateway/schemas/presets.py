"""Presets (hooks for common questions) and scenarios (example requests), adapted to a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel

from neuroscope.vocabulary.hooks import from_rest
from neuroscope.vocabulary.model_info import ModelInfo
from neuroscope_gateway.schemas.chat import ActivationCompletionRequest
from neuroscope_gateway.schemas.hooks import ActivationHook

SCENARIO_LAYERS = 5
"""Number of layers that a scenario captures, evenly spaced."""


class PresetName(StrEnum):
    """The name of a preset."""

    CIRCUIT_DISCOVERY = "circuit_discovery"
    ATTENTION_ANALYSIS = "attention_analysis"
    MLP_ANALYSIS = "mlp_analysis"
    RESIDUAL_STREAM = "residual_stream"
    COMPREHENSIVE = "comprehensive"


@dataclass(frozen=True, slots=True)
class _Site:
    """A component and its sides."""

    component: str
    is_input: bool = False
    is_output: bool = True


@dataclass(frozen=True, slots=True)
class _PresetDefinition:
    """A preset: its description, and its sites in every layer and once."""

    description: str
    in_layers: tuple[_Site, ...]
    once: tuple[_Site, ...] = ()


_EMBEDDING = _Site("embedding")
_PRESETS = {
    PresetName.CIRCUIT_DISCOVERY: _PresetDefinition(
        "What each layer's attention and MLP write into the residual stream: candidates for the nodes of a circuit.",
        tuple(map(_Site, ("residual", "attention", "mlp"))),
    ),
    PresetName.ATTENTION_ANALYSIS: _PresetDefinition(
        "Where each head looks, and what it looks with.",
        tuple(map(_Site, ("attention_pattern", "query", "key", "value", "attention"))),
    ),
    PresetName.MLP_ANALYSIS: _PresetDefinition(
        "What each MLP reads and what it writes.",
        (_Site("mlp", is_input=True),),
    ),
    PresetName.RESIDUAL_STREAM: _PresetDefinition(
        "How information flows: the embedding, and the stream before and after each layer.",
        (_Site("residual", is_input=True),),
        (_EMBEDDING,),
    ),
    PresetName.COMPREHENSIVE: _PresetDefinition(
        "Every component of the REST format.",
        tuple(
            map(
                _Site,
                (
                    "residual",
                    "attention",
                    "mlp",
                    "layernorm",
                    "attention_scores",
                    "attention_pattern",
                    "query",
                    "key",
                    "value",
                ),
            )
        ),
        (_EMBEDDING,),
    ),
}


@dataclass(frozen=True, slots=True)
class _ScenarioDefinition:
    """A scenario: its preset, prompts and sampling."""

    description: str
    preset: PresetName
    prompts: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0


_SCENARIOS = {
    "mathematical_reasoning": _ScenarioDefinition(
        "Sums with and without a carry: which layers compute, and which only copy digits?",
        PresetName.CIRCUIT_DISCOVERY,
        ("What is 127 + 348? Answer with the number.", "What is 111 + 222? Answer with the number."),
        8,
    ),
    "factual_recall": _ScenarioDefinition(
        "Facts of one form with different subjects: where does the answer enter the stream of the last position?",
        PresetName.MLP_ANALYSIS,
        ("Who was the first person on the moon?", "Who was the first person in space?"),
        12,
    ),
    "creative_writing": _ScenarioDefinition(
        "Text that is drawn, not recalled: what differs from factual answers, layer by layer?",
        PresetName.CIRCUIT_DISCOVERY,
        ("Write a haiku about the sea.",),
        32,
        0.8,
    ),
    "attention_patterns": _ScenarioDefinition(
        "A pronoun and a repeated name: which heads look back at what they refer to?",
        PresetName.ATTENTION_ANALYSIS,
        ("Mary gave John a book because she had read it. Who had read the book?",),
        12,
    ),
    "residual_stream": _ScenarioDefinition(
        "A syllogism: how does the stream of the last position change on its way to the answer?",
        PresetName.RESIDUAL_STREAM,
        ("All penguins are birds. Pip is a penguin. Is Pip a bird?",),
        8,
    ),
}


class UnavailableHook(BaseModel):
    """A hook of a preset that the model does not support."""

    layer_name: str
    component: str
    reason: str


class Preset(BaseModel):
    """Hooks for a question."""

    name: PresetName
    description: str
    model: str
    layers: list[int]
    activation_hooks: list[ActivationHook]
    """Hooks for `activation_hooks` of a request, or for registration."""
    unavailable: list[UnavailableHook]

    @classmethod
    def of(cls, name: PresetName, info: ModelInfo, layers: Sequence[int] | None = None) -> Preset:
        """The preset for layers of a model; None: all layers."""
        question = _PRESETS[name]
        chosen = list(range(info.model.num_layers)) if layers is None else list(dict.fromkeys(layers))
        wanted = [("transformer.wte", "", item) for item in question.once]
        wanted += [(f"transformer.h.{layer}", f"_{layer}", item) for layer in chosen for item in question.in_layers]
        hooks: list[ActivationHook] = []
        missing: list[UnavailableHook] = []
        for layer_name, suffix, item in wanted:
            hook = ActivationHook(
                layer_name=layer_name,
                component=item.component,
                hook_id=f"{item.component}{suffix}",
                capture_input=item.is_input,
                capture_output=item.is_output,
            )
            reasons = [reason for spec in from_rest(hook.model_dump()) if (reason := info.why_not(spec.site))]
            if reasons:
                missing.append(
                    UnavailableHook(layer_name=layer_name, component=item.component, reason="; ".join(reasons))
                )
            else:
                hooks.append(hook)
        return cls(
            name=name,
            description=question.description,
            model=info.model_id,
            layers=chosen,
            activation_hooks=hooks,
            unavailable=missing,
        )


class Scenario(BaseModel):
    """Example requests for `/v1/chat/completions/with_activations`."""

    name: str
    description: str
    preset: PresetName
    requests: list[ActivationCompletionRequest]


class PresetList(BaseModel):
    """Presets and scenarios of a loaded model."""

    object: Literal["list"] = "list"
    model: str
    presets: list[Preset]
    scenarios: list[Scenario]


def preset_list(info: ModelInfo) -> PresetList:
    """All presets for all layers, and all scenarios for a few."""
    return PresetList(
        model=info.model_id,
        presets=[Preset.of(name, info) for name in PresetName],
        scenarios=scenarios(info),
    )


def scenarios(info: ModelInfo) -> list[Scenario]:
    """All scenarios, with hooks in a few layers."""
    layers = evenly_spaced_layers(info.model.num_layers)
    return [
        Scenario(
            name=name,
            description=setting.description,
            preset=setting.preset,
            requests=[
                _scenario_request(prompt, setting, Preset.of(setting.preset, info, layers))
                for prompt in setting.prompts
            ],
        )
        for name, setting in _SCENARIOS.items()
    ]


def evenly_spaced_layers(num_layers: int) -> list[int]:
    """At most SCENARIO_LAYERS layers, including the first and the last."""
    count = min(SCENARIO_LAYERS, num_layers)
    if count <= 1:
        return list(range(num_layers))
    return [round(index * (num_layers - 1) / (count - 1)) for index in range(count)]


def _scenario_request(prompt: str, setting: _ScenarioDefinition, preset: Preset) -> ActivationCompletionRequest:
    body: dict[str, Any] = {
        "model": preset.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": setting.max_tokens,
        "temperature": setting.temperature,
        "activation_hooks": [hook.model_dump() for hook in preset.activation_hooks],
        "activation_format": "metadata",
    }
    return ActivationCompletionRequest.model_validate(body | ({"seed": 0} if setting.temperature else {}))
