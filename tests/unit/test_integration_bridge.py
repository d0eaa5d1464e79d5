"""NeuroScope's bridge and its Smalltalk.  Run: python -m pytest tests/unit/test_integration_bridge.py"""

import re
from typing import Any

import numpy as np
import pytest

from neuroscope import errors
from neuroscope.integration import NeuroScopeActivationBridge, generate_neuroscope_smalltalk_interface
from neuroscope.rest import CapturedActivation

BRIDGE = NeuroScopeActivationBridge


def test_hooks_for_circuits() -> None:
    hooks = BRIDGE.create_hook_specs_for_circuit_analysis(24)
    assert len(hooks) == 1 + 3 * 24
    assert (hooks[0]["layer_name"], hooks[0]["component"], hooks[0]["hook_id"]) == (
        "transformer.wte",
        "embedding",
        "embedding_output",
    )
    assert [hook["hook_id"] for hook in hooks[1:5]] == [
        "layer_0_residual",
        "layer_0_attention",
        "layer_0_mlp",
        "layer_1_residual",
    ]
    assert hooks[-1]["layer_name"] == "transformer.h.23"
    assert len(BRIDGE.create_hook_specs_for_circuit_analysis(2, ["resid_mid"])) == 3


def test_hooks_for_attention() -> None:
    hooks = BRIDGE.create_attention_analysis_hooks(12, target_layers=[5])
    assert [hook["component"] for hook in hooks] == ["attention", "attention_scores", "query", "key", "value"]
    assert [hook["hook_id"] for hook in hooks][:2] == ["layer_5_attention_output", "layer_5_attention_scores"]
    assert len(BRIDGE.create_attention_analysis_hooks(12)) == 60


@pytest.mark.parametrize(
    ("call", "kind", "field"),
    [
        (lambda: BRIDGE.create_hook_specs_for_circuit_analysis(0), errors.InvalidRequestError, "model_layers"),
        (
            lambda: BRIDGE.create_hook_specs_for_circuit_analysis(2, ["mlp", "mpl"]),
            errors.UnknownSiteError,
            "components[1]",
        ),
        (
            lambda: BRIDGE.create_hook_specs_for_circuit_analysis(2, ["logits"]),
            errors.UnknownSiteError,
            "components[0]",
        ),
        (lambda: BRIDGE.create_attention_analysis_hooks(2, [0, 2]), errors.InvalidRequestError, "target_layers[1]"),
    ],
)
def test_mistakes_are_named(call: Any, kind: type[errors.MLXIntegrationError], field: str) -> None:
    with pytest.raises(errors.MLXIntegrationError) as caught:
        call()
    assert (type(caught.value), caught.value.field) == (kind, field)


def test_what_a_list_cannot_say_is_base64() -> None:
    broken = CapturedActivation("h", "blocks.1", "mlp", [2], "float32", False, np.array([1, np.inf], np.float32))
    ((told,),) = BRIDGE.convert_activations_for_neuroscope({"h": [broken]}).values()
    assert (told["format"], told["layer"]) == ("base64", 1)
    ((again,),) = BRIDGE.convert_activations_for_neuroscope({"h": [told]}).values()
    assert again == told


def test_activations_without_data_are_refused() -> None:
    bare = {"hook_id": "h", "layer_name": "", "component": "mlp", "shape": [1], "dtype": "float32", "is_input": False}
    with pytest.raises(errors.DataConversionError):
        BRIDGE.convert_activations_for_neuroscope({"h": [bare | {"data": None, "url": "/v1/activations/captures/x/0"}]})


def chunks(text: str) -> list[str]:
    """Chunks as a file-in reads them: up to a `!` that is not doubled."""
    return [chunk.replace("!!", "!").strip() for chunk in re.split(r"(?<!!)!(?!!)", text)]


def test_the_class_is_in_chunks_that_can_be_read() -> None:
    text = generate_neuroscope_smalltalk_interface("http://127.0.0.1:8080/")
    read = chunks(text)
    assert read[-1] == ""
    assert sum("subclass: #LMStudioRESTClient" in chunk for chunk in read) == 1
    methods = [chunk.split("\n")[0] for chunk in read if re.match(r"[a-zA-Z:]+( \w+ ?|\n|$)", chunk)]
    for wanted in (
        "default",
        "loadModel: aPath",
        "generateWithActivations: messages hooks: hooks",
        "generateWithActivations: messages hooks: hooks maxTokens: maxTokens temperature: temperature",
        "createCircuitAnalysisHooks: layerCount",
        "createAttentionAnalysisHooks: layerCount targetLayers: layersOrNil",
        "convertActivationsForNeuroScope: activations",
    ):
        assert wanted in methods
    for chunk in read:
        code = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "", chunk)  # without texts and comments
        assert "'" not in code, chunk
        assert '"' not in code, chunk
        for left, right in ("[]", "()"):
            assert code.count(left) == code.count(right), chunk
    assert "!127.0.0.1" not in text


def test_a_url_stays_one_text() -> None:
    text = generate_neuroscope_smalltalk_interface("http://lab/it's!")
    assert "'http://lab/it''s!!'" in text
    with pytest.raises(errors.InvalidRequestError, match="no URL"):
        generate_neuroscope_smalltalk_interface("lab:8080")
