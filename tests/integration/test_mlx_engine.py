"""The engine in this process under mlx-engine's names.  Run: python -m pytest tests/integration/test_mlx_engine.py"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client, errors, zero
from neuroscope.mlx_engine import (
    ActivationHookSpec,
    CapturedActivation,
    ComponentType,
    ModelKit,
    create_generator,
    create_generator_with_activations,
    load_model,
    serialize_activations,
    tokenize,
)
from neuroscope.rest import DataSerializer, RESTActivationCaptureClient, join
from tests.support.services import Service

TEXT = "The cat sat on the mat"
SIZE = 6


@pytest.fixture(scope="module")
def model(llama_dir: Path) -> Iterator[ModelKit]:
    with load_model(llama_dir) as kit:
        yield kit


@pytest.fixture(autouse=True)
def without_hooks(model: ModelKit) -> Iterator[None]:
    yield
    model.clear_activation_hooks()
    model.clear_captured_activations()


def generated(model: ModelKit, hooks: Any = (), **parameters: Any) -> list[tuple[Any, dict[str, Any]]]:
    tokens = tokenize(model, TEXT)
    chosen: dict[str, Any] = {"max_tokens": SIZE} | parameters
    return list(create_generator_with_activations(model, tokens, activation_hooks=hooks, **chosen))


def text_of(steps: list[tuple[Any, Any]]) -> str:
    return "".join(result.text for result, _ in steps)


SCRIPT = """
from neuroscope.mlx_engine import load_model, create_generator_with_activations, tokenize
import sys

llm = load_model(sys.argv[1])
prompt = tokenize(llm, "Once upon a time")
wanted = [{'layer_name': 'transformer.h.3', 'component': 'residual'}]
for result, activations in create_generator_with_activations(llm, prompt, activation_hooks=wanted, max_tokens=5):
    print(f"text {result.text!r}")
    if activations:
        print(f"{len(activations)} hook: {', '.join(activations)}")
"""


def test_a_script_as_users_of_mlx_engine_write_it(llama_dir: Path) -> None:
    """Only where it imports from is ours. It closes nothing, and its process ends all the same."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(llama_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("text ") for line in lines) == 5
    assert lines[1] == "1 hook: transformer.h.3_residual"


def test_the_bits_are_those_of_grpc_and_of_rest(model: ModelKit, inference: Service, gateway: Service) -> None:
    hooks = [
        ActivationHookSpec(f"transformer.h.{layer}", component, capture_input=component in ("residual", "mlp"))
        for layer in (0, 3)
        for component in ComponentType
        if component is not ComponentType.EMBEDDING
    ]
    messages = [{"role": "user", "content": TEXT}]
    tokens = tokenize(model, messages)
    mine = list(create_generator_with_activations(model, tokens, activation_hooks=hooks, max_tokens=SIZE))
    with Client(inference.target) as client:
        objects = [hook.to_api_format() for hook in hooks]
        grpc = client.generate(messages, hooks=objects, model_id="llama", max_tokens=SIZE).wait()
    with RESTActivationCaptureClient(gateway.target, timeout=120) as client:
        rest = client.generate_with_activations(messages, hooks, model="llama", max_tokens=SIZE)
    assert text_of(mine) == grpc.text == rest.text
    for hook in hooks:
        for is_input in {False, hook.capture_input}:
            pieces = [one for _, seen in mine for one in seen.get(hook.hook_id, ()) if one.is_input == is_input]
            joined, over_rest = join(pieces), rest.joined(hook.hook_id, is_input=is_input)
            assert (joined.component, joined.layer_name) == (hook.component, hook.layer_name)
            assert joined.data.dtype == over_rest.data.dtype
            np.testing.assert_array_equal(joined.data, over_rest.data)
            np.testing.assert_array_equal(joined.data, grpc.cache[str(joined.point)])


def test_activations_come_with_their_token(model: ModelKit) -> None:
    steps = generated(model, [{"layer_name": "blocks.1", "component": "key", "hook_id": "k"}])
    assert len(steps) == SIZE
    for step, (_, activations) in enumerate(steps):
        (captured,) = activations["k"]
        assert isinstance(captured, CapturedActivation)
        assert captured.metadata["step"] == step
        assert captured.shape[1] == (len(tokenize(model, TEXT)) if step == 0 else 1)


def test_registered_hooks_stay_and_keep(model: ModelKit) -> None:
    assert model.register_activation_hook("transformer.h.2", ComponentType.MLP) == "transformer.h.2_mlp"
    model.register_activation_hook(ActivationHookSpec("transformer.h.1", "residual", "r"))
    first = generated(model, [{"layer_name": "blocks.0", "component": "value", "hook_id": "once"}])
    assert set(first[0][1]) == {"transformer.h.2_mlp", "r", "once"}
    assert set(model.get_captured_activations()) == {"transformer.h.2_mlp", "r"}, "others are the generation's alone"
    second = generated(model)
    assert set(second[0][1]) == {"transformer.h.2_mlp", "r"}
    kept = model.get_captured_activations()["r"]
    assert len(kept) == 2 * SIZE
    np.testing.assert_array_equal(kept[SIZE].data, kept[0].data)
    model.unregister_activation_hook("r")
    assert set(generated(model)[0][1]) == {"transformer.h.2_mlp"}
    model.clear_activation_hooks()
    assert generated(model)[0][1] == {}
    assert "r" in model.get_captured_activations()
    model.clear_captured_activations()
    assert model.get_captured_activations() == {}


def test_what_is_kept_is_bounded(llama_dir: Path) -> None:
    row_bytes = 128 * 4
    with load_model(llama_dir, max_captured_bytes=3 * row_bytes) as model:
        model.register_activation_hook("transformer.h.2", "residual", "r")
        generated(model)
        kept = model.get_captured_activations()["r"]
    assert [one.metadata["step"] for one in kept] == [SIZE - 3, SIZE - 2, SIZE - 1]


@pytest.mark.parametrize("form", ["numpy", "base64", "metadata-only"])
def test_activations_are_serialised(model: ModelKit, form: str) -> None:
    activations = generated(model, [{"layer_name": "blocks.1", "component": "residual", "hook_id": "r"}])[0][1]
    told = serialize_activations(activations, form)
    assert told["r"][0]["shape"] == activations["r"][0].shape
    if form == "metadata-only":
        assert "data" not in told["r"][0]
    else:
        again = DataSerializer().deserialize_all(told)["r"][0]
        np.testing.assert_array_equal(again.data, activations["r"][0].data)


def test_why_it_ended(model: ModelKit) -> None:
    steps = generated(model, max_tokens=SIZE)
    assert [result.stop_condition for result, _ in steps[:-1]] == [None] * (SIZE - 1)
    assert steps[-1][0].stop_condition.stop_reason == "token_limit"
    stop = text_of(steps)[2:5]
    stopped = generated(model, max_tokens=SIZE, stop_strings=["never comes", stop])
    condition = stopped[-1][0].stop_condition
    assert (condition.stop_reason, condition.stop_string) == ("stop_string", stop)
    assert text_of(stopped) == text_of(steps)[: text_of(steps).index(stop)]


def test_the_bundled_model_ends_by_itself(bundled_model_dir: Path) -> None:
    with load_model(bundled_model_dir) as model:
        tokens = tokenize(model, [{"role": "user", "content": "What is the capital of France?"}])
        steps = list(create_generator(model, tokens, max_tokens=40, top_logprobs=3))
    last = steps[-1].stop_condition
    assert last is not None
    assert last.stop_reason == "eos_found"
    assert len(last.stop_tokens) == 1
    assert [len(step.top_logprobs[0]) for step in steps] == [3] * len(steps)


def test_sampling_and_edits(model: ModelKit) -> None:
    drawn = [text_of(generated(model, temp=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    # mlx-engine's repetition penalty, over its last 20 tokens, is the engine's own.
    penalised = [result.tokens[0].id for result, _ in generated(model, repetition_penalty=5.0)]
    own = model.client.generate(
        tokenize(model, TEXT), model_id=model.model_id, max_tokens=SIZE, repetition_penalty=5.0, penalty_context_size=20
    )
    assert penalised == [token.token_id for token in own]
    assert text_of(generated(model, repetition_penalty=0)) == text_of(generated(model))
    hook = [{"layer_name": "blocks.1", "component": "mlp", "hook_id": "m"}]
    edited = generated(model, hook, interventions=[zero("mlp_out", 1)], max_tokens=1)
    assert not edited[0][1]["m"][0].data.any()


def test_mistakes_are_told_at_once(model: ModelKit) -> None:
    tokens = tokenize(model, TEXT)
    with pytest.raises(errors.NotImplementedByEngineError, match="json_schema"):
        create_generator_with_activations(model, tokens, json_schema="{}")
    with pytest.raises(errors.InvalidRequestError, match="temprature"):
        create_generator_with_activations(model, tokens, temprature=1)
    create_generator_with_activations(model, tokens, json_schema=None, images_b64=[]).close()
    model.register_activation_hook("transformer.h.1", "mlp", "m")
    with pytest.raises(errors.IdTakenError):
        model.register_activation_hook("transformer.h.2", "mlp", "m")
    with pytest.raises(errors.IdTakenError) as caught:
        create_generator_with_activations(model, tokens, activation_hooks=[{"component": "key", "hook_id": "m"}])
    assert caught.value.field == "activation_hooks[0].hook_id"
    with pytest.raises(errors.UnknownSiteError, match="out of range"):
        model.register_activation_hook("transformer.h.9", "mlp")
    with pytest.raises(errors.UnknownSiteError, match="nearest"):
        model.register_activation_hook("transformer.h.1", "mpl")
    with pytest.raises(errors.UnavailableSiteError, match=r"no router_logits\.1"):
        model.register_activation_hook("transformer.h.1", "router_logits")
    with pytest.raises(errors.UnknownIdError):
        model.unregister_activation_hook("never")
    with pytest.raises(errors.ModelNotFoundError):
        load_model("/nowhere/at/all")


def test_a_model_lives_as_long_as_somebody_has_it(gpt2_dir: Path) -> None:
    first, second = load_model(gpt2_dir), load_model(gpt2_dir)
    first.close()
    first.close()
    assert text_of(generated(second))
    second.close()
    with pytest.raises(errors.ModelNotFoundError):
        generated(second)


def test_a_generator_that_is_left_is_cancelled(model: ModelKit) -> None:
    generator = create_generator_with_activations(model, tokenize(model, TEXT), max_tokens=400)
    next(generator)
    generator.close()
    assert model.client.workload().streams == 0
