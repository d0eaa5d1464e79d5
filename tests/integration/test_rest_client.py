"""The REST client before a real gateway and a real inference service.

python -m pytest tests/integration/test_rest_client.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client, errors
from neuroscope.rest import (
    ActivationHookSpec,
    CapturedActivation,
    NeuroScopeData,
    RESTActivationCaptureClient,
    Usage,
    join,
)
from tests.support.services import Service, inference_service, running

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
SIZE = 8
COMPONENTS = (
    "residual attention mlp layernorm attention_scores attention_pattern key query value head_output mlp_neurons"
).split()
SPECS = [
    *(ActivationHookSpec(f"transformer.h.{layer}", name) for layer in (0, 3) for name in COMPONENTS),
    ActivationHookSpec("transformer.wte", "embedding"),
]


@pytest.fixture
def client(gateway: Service) -> Iterator[RESTActivationCaptureClient]:
    with RESTActivationCaptureClient(gateway.target, timeout=120) as client:
        yield client
        client.clear_activation_hooks()


@pytest.fixture
def grpc(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as client:
        yield client


def cached(grpc: Client, specs: list[ActivationHookSpec], model: str, **sampling: Any) -> Any:
    """What gRPC gives for the same hooks: a generation and its cache."""
    hooks = [spec.to_api_format() for spec in specs]
    return grpc.generate(MESSAGES, hooks=hooks, model_id=model, max_tokens=SIZE, **sampling).wait()


def assert_same_bits(mine: CapturedActivation, theirs: np.ndarray) -> None:
    assert mine.data.dtype == theirs.dtype
    np.testing.assert_array_equal(mine.data, theirs)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 7}], ids=["greedy", "drawn"])
def test_a_generation_has_the_bits_of_grpc(
    client: RESTActivationCaptureClient, grpc: Client, model: str, sampling: dict[str, Any]
) -> None:
    expected = cached(grpc, SPECS, model, **sampling)
    ids = client.create_activation_hooks(SPECS)
    assert ids == [spec.hook_id for spec in SPECS]
    result = client.generate_with_activations(MESSAGES, ids, model=model, max_tokens=SIZE, **sampling)
    assert result.text == expected.text == result.choices[0].message["content"]
    assert result.usage.prompt_tokens == expected.usage.prompt_tokens
    assert result.generation_metadata["model"] == model
    assert set(result.activations) == set(ids)
    for spec in SPECS:
        joined = result.joined(spec.hook_id)
        assert (joined.component, joined.layer_name) == (spec.component, spec.layer_name)
        assert_same_bits(joined, expected.cache[spec.hook_id])


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_stream_has_the_same_bits_step_by_step(client: RESTActivationCaptureClient, grpc: Client, model: str) -> None:
    expected = cached(grpc, SPECS, model)
    results = list(client.stream_with_activations(MESSAGES, SPECS, model=model, max_tokens=SIZE))
    *tokens, end = results
    assert "".join(result.token for result in tokens) == expected.text
    assert [result.generation_metadata["step"] for result in tokens] == list(range(len(tokens)))
    assert not any(result.is_complete for result in tokens)
    assert end.is_complete
    assert (end.token, end.activations) == ("", {})
    assert isinstance(end.generation_metadata["usage"], Usage)
    assert end.generation_metadata["finish_reason"] in ("stop", "length")
    for spec in SPECS:
        steps = [result.activations[spec.hook_id] for result in tokens if spec.hook_id in result.activations]
        assert [step.metadata["step"] for step in steps] == list(range(len(steps)))
        assert_same_bits(join(steps), expected.cache[spec.hook_id])


def test_hooks_are_a_mixture_of_ids_specs_and_objects(client: RESTActivationCaptureClient) -> None:
    (kept,) = client.create_activation_hooks([ActivationHookSpec("transformer.h.1", "mlp", "kept")])
    hooks = [kept, ActivationHookSpec("blocks.2", "key"), {"layer_name": "layers.0", "component": "value"}]
    result = client.generate_with_activations(MESSAGES, hooks, max_tokens=1)
    (unnamed,) = set(result.activations) - {"kept", "blocks.2_key"}
    assert result.activations[unnamed][0].component == "value"
    assert len(result.activations) == 3


def test_a_stream_has_one_activation_for_each_point_of_a_hook(client: RESTActivationCaptureClient) -> None:
    both = ActivationHookSpec("transformer.h.1", "mlp", "both", capture_input=True)
    every = ActivationHookSpec("", "residual", "every")
    first = next(iter(client.stream_with_activations(MESSAGES, [both, every], max_tokens=2)))
    assert set(first.activations) == {"both", "both.input", *(f"every@model.layers.{layer}" for layer in range(4))}
    assert first.activations["both.input"].is_input
    assert first.activations["every@model.layers.3"].point.layer == 3


def test_activations_are_found_by_layer_and_component(client: RESTActivationCaptureClient) -> None:
    specs = [
        ActivationHookSpec("transformer.h.1", "residual", "r1", capture_input=True),
        ActivationHookSpec("blocks.2", "resid_post", "r2"),
        ActivationHookSpec("model.layers.2", "attention", "a2"),
        ActivationHookSpec("transformer.wte", "embedding", "e"),
    ]
    result = client.generate_with_activations(MESSAGES, specs, max_tokens=1)
    assert {one.hook_id for one in result.get_activations_by_layer(1)} == {"r1"}
    assert {one.hook_id for one in result.get_activations_by_layer(2)} == {"r2", "a2"}
    assert result.get_activations_by_layer(3) == []
    found = result.get_activations_by_component("residual")
    assert {(one.hook_id, one.is_input) for one in found} == {("r1", True), ("r1", False), ("r2", False)}
    assert {one.hook_id for one in result.get_activations_by_component("resid_post")} == {"r1", "r2"}
    assert {one.hook_id for one in result.get_activations_by_component("embedding")} == {"e"}


def test_what_is_exported_is_read_again_to_the_bit(client: RESTActivationCaptureClient) -> None:
    result = client.generate_with_activations(MESSAGES, SPECS[:6], max_tokens=3)
    exported = result.export_for_neuroscope()
    read = NeuroScopeData.from_json(exported.to_json())
    assert read == exported
    assert read.model_info == {"model_id": "llama"}
    assert read.metadata["text"] == result.text
    assert read.activation_data[SPECS[0].hook_id][0]["layer"] == 0
    for hook_id, several in read.activations().items():
        for mine, theirs in zip(several, result.activations[hook_id], strict=True):
            assert_same_bits(mine, theirs.data)


def test_tensors_travel_in_any_form_with_the_same_bits(client: RESTActivationCaptureClient) -> None:
    specs = [SPECS[0], ActivationHookSpec("", "attention_scores", "all")]
    expected = client.generate_with_activations(MESSAGES, specs, max_tokens=3)
    assert "capture_id" not in expected.generation_metadata
    for form in ("list", "metadata"):
        result = client.generate_with_activations(MESSAGES, specs, max_tokens=3, activation_format=form)
        assert set(result.activations) == {SPECS[0].hook_id, "all"}
        for hook_id in result.activations:
            count = sum(one.data.size for one in expected.activations[hook_id])
            assert sum(one.data.size for one in result.activations[hook_id]) == count
        assert_same_bits(result.joined(SPECS[0].hook_id), expected.joined(SPECS[0].hook_id).data)
    client.captures.delete(result.generation_metadata["capture_id"])
    with pytest.raises(errors.InvalidRequestError, match="generate_with_activations") as caught:
        client.stream_with_activations(MESSAGES, specs, activation_format="metadata")
    assert caught.value.field == "activation_format"


def test_kept_streams_are_listed_read_and_removed(client: RESTActivationCaptureClient, grpc: Client) -> None:
    specs = [ActivationHookSpec("transformer.h.1", "residual", "r")]
    result = client.generate_with_activations(MESSAGES, specs, max_tokens=3, capture_id="rest-kept")
    assert result.generation_metadata["capture_id"] == "rest-kept"
    kept = client.captures.get("rest-kept")
    assert kept in client.captures.list()
    assert (kept.state, kept.completion_tokens) == ("committed", result.usage.completion_tokens)
    (tensor,) = kept.tensors
    assert (tensor.hook_id, tensor.component, tensor.axes) == ("r", "resid_post", ("batch", "position", "d_model"))
    prefill = client.captures.tensor("rest-kept", tensor.tensor)
    assert_same_bits(result.activations["r"][0], prefill)
    assert_same_bits(result.activations["r"][1], client.captures.tensor("rest-kept", 0, step=1))
    data = prefill.tobytes()
    assert client.captures.read("rest-kept", 0, first_byte=5, length_bytes=11) == data[5:16]
    assert client.captures.read("rest-kept", 0, first_byte=len(data) - 3) == data[-3:]
    with pytest.raises(errors.InvalidRequestError):
        client.captures.read("rest-kept", 0, first_byte=len(data))
    for call in (
        lambda: client.captures.read("rest-kept", 0, first_byte=-1),
        lambda: client.captures.read("rest-kept", 0, length_bytes=0),
        lambda: client.captures.tensor("rest-kept", 7),
        lambda: client.captures.tensor("rest-kept", 0, step=99),
    ):
        with pytest.raises(errors.InvalidRequestError):
            call()
    client.captures.delete("rest-kept")
    with pytest.raises(errors.UnknownIdError):
        client.captures.get("rest-kept")


def test_presets_and_scenarios(client: RESTActivationCaptureClient) -> None:
    preset = client.presets.get("attention_analysis", [0, 2], model_id="gpt2")
    assert (preset.model_id, preset.layers) == ("gpt2", (0, 2))
    assert {spec.layer_name for spec in preset.hooks} == {"transformer.h.0", "transformer.h.2"}
    names = ["circuit_discovery", "attention_analysis", "mlp_analysis", "residual_stream", "comprehensive"]
    assert [preset.name for preset in client.presets.list()] == names
    scenarios = client.presets.scenarios()
    assert {scenario.name for scenario in scenarios} == {
        "mathematical_reasoning",
        "factual_recall",
        "creative_writing",
        "attention_patterns",
        "residual_stream",
    }
    request = scenarios[0].requests[0]
    result = client.generate_with_activations(request.messages, request.hooks, **request.parameters | {"max_tokens": 1})
    assert set(result.activations) == {spec.hook_id for spec in request.hooks}
    with pytest.raises(errors.InvalidRequestError) as unknown:
        client.presets.get("everything")
    assert unknown.value.field == "name"
    with pytest.raises(errors.InvalidRequestError) as far:
        client.presets.get("residual_stream", [9])
    assert far.value.field == "layers[0]"


def test_answers_as_json(client: RESTActivationCaptureClient) -> None:
    plain = client.chat_completion(MESSAGES, max_tokens=SIZE)
    captured = client.chat_completion_with_activations(
        messages=MESSAGES, activation_hooks=[SPECS[0].to_api_format()], max_tokens=SIZE
    )
    assert plain["choices"][0]["message"] == captured["choices"][0]["message"]
    assert "activations" not in plain
    piece = captured["activations"][SPECS[0].hook_id][0]
    assert np.shape(piece["data"]) == tuple(piece["shape"])


def test_hooks_are_registered_listed_and_cleared(client: RESTActivationCaptureClient) -> None:
    specs = [ActivationHookSpec("transformer.h.1", "mlp", "a", capture_input=True), ActivationHookSpec("", "key", "b")]
    assert client.create_activation_hooks(specs) == ["a", "b"]
    assert client.hooks.list() == specs
    assert not client.clear_activation_hooks(["a", "never"])
    assert client.hooks.list() == specs, "one unknown id, nothing removed"
    assert client.clear_activation_hooks(["a"])
    assert client.clear_activation_hooks([])
    assert [spec.hook_id for spec in client.hooks.list()] == ["b"]
    with client.hooks.registered([ActivationHookSpec("blocks.0", "value", "c")]) as ids:
        assert ids == ["c"]
        assert client.hooks.clear(["b"]) == ["b"]
    assert client.hooks.list() == []
    assert client.clear_activation_hooks()


def test_a_hook_is_checked_against_a_model(client: RESTActivationCaptureClient) -> None:
    architecture = client.models.describe("llama")
    assert (architecture.num_layers, architecture.d_model, architecture.num_heads) == (4, 128, 8)
    good = ActivationHookSpec("transformer.h.3", "attention", "x", capture_input=True)
    assert good.validate_specification(architecture)
    assert [str(point) for point in good.validate_specification(architecture).points] == [
        "attn_out.3.input",
        "attn_out.3",
    ]
    far = ActivationHookSpec("transformer.h.4", "attention").validate_specification(architecture)
    assert not far
    assert "out of range" in far.errors[0]
    unknown = ActivationHookSpec("transformer.h.1", "attenttion").validate_specification(architecture)
    assert "nearest: attention" in unknown.errors[0]
    absent = ActivationHookSpec("transformer.h.1", "router_logits").validate_specification(architecture)
    assert not absent
    assert absent.errors[0].startswith("router_logits.1: ")


@pytest.mark.parametrize(
    ("hooks", "parameters", "kind", "field"),
    [
        ([{"component": "residuals"}], {}, errors.UnknownSiteError, "activation_hooks[0].component"),
        (
            [{"component": "key", "layer_name": "layers.9"}],
            {},
            errors.UnknownSiteError,
            "activation_hooks[0].layer_name",
        ),
        ([{"component": "router_logits"}], {}, errors.UnavailableSiteError, "activation_hooks[0].component"),
        ([{"component": "key", "laier": 1}], {}, errors.InvalidRequestError, "activation_hooks[0].laier"),
        (["never"], {}, errors.UnknownIdError, "activation_hooks[0]"),
        ([], {"model": "never"}, errors.ModelNotFoundError, "model"),
        ([], {"temperature": 3}, errors.InvalidRequestError, "temperature"),
        ([], {"temprature": 1}, errors.InvalidRequestError, "temprature"),
        ([], {"stream": True}, errors.InvalidRequestError, "stream"),
        ("residual", {}, errors.InvalidRequestError, "hooks"),
        ([], {"seed": object()}, errors.InvalidRequestError, ""),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_are_those_of_the_tree(
    client: RESTActivationCaptureClient,
    hooks: Any,
    parameters: dict[str, Any],
    kind: type[errors.MLXIntegrationError],
    field: str,
    streamed: bool,
) -> None:
    call = client.stream_with_activations if streamed else client.generate_with_activations
    with pytest.raises(errors.MLXIntegrationError) as caught:
        list(call(MESSAGES, hooks, **{"max_tokens": 2} | parameters))  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert type(caught.value) is kind
    assert caught.value.field == field


def test_a_hook_is_registered_once(client: RESTActivationCaptureClient) -> None:
    client.create_activation_hooks([ActivationHookSpec("blocks.0", "key", "k")])
    with pytest.raises(errors.IdTakenError):
        client.create_activation_hooks([ActivationHookSpec("blocks.0", "key", "k")])
    with pytest.raises(errors.InvalidRequestError, match="brackets"):
        client.create_activation_hooks(ActivationHookSpec("blocks.0", "key", "k"))  # type: ignore[arg-type]


def test_a_model_that_was_loaded_answers(gpt2_dir: Path, llama_dir: Path) -> None:
    with (
        inference_service(llama_dir) as inference,
        running("neuroscope_gateway", "--port", "0", "--inference", inference.target) as gateway,
        RESTActivationCaptureClient(gateway.target) as client,
    ):
        assert client.health()["models"] == ["llama"]
        assert client.generate_with_activations(MESSAGES, max_tokens=1).generation_metadata["model"] == "llama"
        loaded = client.load_model(gpt2_dir)
        assert (loaded.model_id, loaded.status, loaded.supports_activations) == ("gpt2", "loaded", True)
        assert loaded.architecture.hook_points
        assert [model.model_id for model in client.models.list()] == ["llama", "gpt2"]
        assert client.generate_with_activations(MESSAGES, max_tokens=1).generation_metadata["model"] == "gpt2"
        with pytest.raises(errors.UnknownSiteError, match="out of range"):
            client.create_activation_hooks([ActivationHookSpec("transformer.h.11", "mlp")])
        with pytest.raises(errors.ModelNotFoundError):
            client.load_model("/nowhere/at/all")
        client.models.unload("gpt2")
        assert [model.model_id for model in client.models.list()] == ["llama"]
        assert client.generate_with_activations(MESSAGES, max_tokens=1).generation_metadata["model"] == "llama"
        with pytest.raises(errors.ModelNotFoundError):
            client.models.unload("gpt2")
        inference.stop()
        with pytest.raises(errors.NeuroScopeIntegrationError):
            client.health()


def test_a_stream_that_is_left_is_cancelled(client: RESTActivationCaptureClient, grpc: Client) -> None:
    stream: Any = client.stream_with_activations(MESSAGES, [ActivationHookSpec("", "residual")], max_tokens=200)
    next(stream)
    stream.close()
    # The connection is free and the service idle: another request is answered as if nothing had been.
    assert client.generate_with_activations(MESSAGES, max_tokens=1).usage.completion_tokens == 1
    assert grpc.workload().streams == 0
