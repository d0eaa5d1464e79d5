"""Hooks for NeuroScope's analyses, and activations in its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuroscope.errors import InvalidRequestError, UnknownSiteError
from neuroscope.rest.captured import CapturedActivation
from neuroscope.rest.neuroscope_data import NeuroScopeData
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.sites import COMPONENTS, REST_NAMES

CIRCUIT_COMPONENTS = ("residual", "attention", "mlp")
ATTENTION_COMPONENTS = ("attention", "attention_scores", "query", "key", "value")


class NeuroScopeActivationBridge:
    """Between the REST format and NeuroScope's. It holds nothing: every method is static."""

    @staticmethod
    def create_hook_specs_for_circuit_analysis(
        model_layers: int, components: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Hooks on the embedding, `embedding_output`, and on components of every layer, such as `layer_3_residual`.

        Args:
            model_layers: how many layers the model has.
            components: of each layer; None: residual, attention and mlp.

        Returns:
            1 + layers * components REST objects, layer by layer.

        Raises:
            InvalidRequestError: there is no layer.
            UnknownSiteError: a component is none of the vocabulary, or belongs to no layer.
        """
        layers = _layers(model_layers, None)
        names = CIRCUIT_COMPONENTS if components is None else _known(components)
        return [
            _hook("transformer.wte", "embedding", "embedding_output"),
            *(_hook(f"transformer.h.{layer}", name, f"layer_{layer}_{name}") for layer in layers for name in names),
        ]

    @staticmethod
    def create_attention_analysis_hooks(
        model_layers: int, target_layers: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Hooks on what attention reads, weighs and writes: output, scores, queries, keys and values of each layer.

        Args:
            model_layers: how many layers the model has.
            target_layers: the layers, from 0; None: all.

        Returns:
            Five REST objects for each layer: `layer_3_attention_output`, `layer_3_attention_scores`, `layer_3_query`,
            `layer_3_key`, `layer_3_value`.

        Raises:
            InvalidRequestError: there is no such layer.
        """
        return [
            _hook(
                f"transformer.h.{layer}", name, f"layer_{layer}_{'attention_output' if name == 'attention' else name}"
            )
            for layer in _layers(model_layers, target_layers)
            for name in ATTENTION_COMPONENTS
        ]

    @staticmethod
    def convert_activations_for_neuroscope(
        activations: Mapping[str, Sequence[Mapping[str, Any] | CapturedActivation]],
    ) -> dict[str, list[dict[str, Any]]]:
        """Activations as NeuroScope takes them in.

        Args:
            activations: of a REST answer or of a `GenerationWithActivations`, by hook id.

        Returns:
            By hook id, the keys of REST and `layer`, the layer's number or null. Data are nested lists; a tensor with
            NaN or infinity is base64, as its `format` says.

        Raises:
            DataConversionError: an activation does not fit its own description, or has no data (`metadata`).
        """
        read = {
            hook_id: [
                one if isinstance(one, CapturedActivation) else CapturedActivation.from_api_format(one)
                for one in several
            ]
            for hook_id, several in activations.items()
        }
        return NeuroScopeData.of(read, model_info={}, metadata={}).activation_data


def _hook(layer_name: str, component: str, hook_id: str) -> dict[str, Any]:
    return {
        "layer_name": layer_name,
        "component": component,
        "hook_id": hook_id,
        "capture_input": False,
        "capture_output": True,
    }


def _layers(model_layers: int, target_layers: Sequence[int] | None) -> Sequence[int]:
    if model_layers < 1:
        raise InvalidRequestError(f"a model has at least one layer, not {model_layers}", field="model_layers")
    if target_layers is None:
        return range(model_layers)
    for index, layer in enumerate(target_layers):
        if not 0 <= layer < model_layers:
            raise InvalidRequestError(
                f"the model has layers 0 to {model_layers - 1}, not {layer}", field=f"target_layers[{index}]"
            )
    return target_layers


def _known(components: Sequence[str]) -> Sequence[str]:
    for index, name in enumerate(components):
        field = f"components[{index}]"
        try:
            (point,) = sites.resolve(site_pb2.Site(component=name), None)
        except UnknownSiteError as error:
            error.field = field
            raise
        if not COMPONENTS[point.component].has_layer:
            valid = tuple(known for known in REST_NAMES if known != "embedding")
            raise UnknownSiteError(f"{name} belongs to no layer", field=field, valid=valid)
    return [str(name) for name in components]
