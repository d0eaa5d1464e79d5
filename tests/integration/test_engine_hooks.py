"""Hooks change nothing, and see what they are named after, in every family of models.

python -m pytest tests/integration/test_engine_hooks.py
"""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine.model import LoadedModel
from tests.support import numpy_forward
from tests.support.compare import assert_close, relative_error
from tests.support.loaded import capture_here, load_here, logits_of_steps, read_all
from tests.support.plain_mlx import load_plain
from tests.support.random_models import FAMILIES, make_model
from tests.support.sliding import window_of

PROMPT = [0, *np.random.default_rng(3).integers(5, 500, 19).tolist()]  # longer than the windows of 16
CONTINUATION = np.random.default_rng(4).integers(5, 500, 32).tolist()
TOLERANCE = 1e-5

ROUTING = {"router_logits", "expert_indices", "expert_weights"}
MIXTURE = {"mlp_neurons"}  # neurons belong to experts
MISSING: dict[str, set[str]] = {  # of every component, layer by layer the same
    "llama": ROUTING,
    "gpt2": ROUTING,
    "qwen2": ROUTING,
    "qwen3": ROUTING,
    "gemma2": ROUTING,
    "gemma3_text": ROUTING,
    "phi3": ROUTING,
    "olmo2": ROUTING | {"ln1", "ln2"},  # norms stand after attention and MLP only
    "cohere2": ROUTING | {"ln2", "resid_mid"},
    "gpt_neox": ROUTING | {"resid_mid"},
    "mistral": ROUTING,
    "mixtral": MIXTURE,
    "qwen3_moe": MIXTURE,
    "gpt_oss": MIXTURE,
    "granitemoe": MIXTURE,
    "llama4": set(),  # mixture and dense layers alternate
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_here(folder)


@pytest.fixture(scope="module")
def seen(model: LoadedModel) -> dict[Point, NDArray[Any]]:
    return capture_here(model, PROMPT)


def test_logits_stay_bit_identical_while_everything_is_read(folder: Path, model: LoadedModel) -> None:
    plain, _ = load_plain(folder)
    expected = logits_of_steps(plain, PROMPT, CONTINUATION)
    hooked = logits_of_steps(model.network, PROMPT, CONTINUATION, read_all(model))
    for step, (a, b) in enumerate(zip(hooked, expected, strict=True)):
        assert mx.array_equal(a, b).item(), f"step {step}"


def test_logits_stay_bit_identical_while_nothing_is_read(folder: Path, model: LoadedModel) -> None:
    plain, _ = load_plain(folder)
    expected = logits_of_steps(plain, PROMPT, CONTINUATION[:4])
    for a, b in zip(logits_of_steps(model.network, PROMPT, CONTINUATION[:4]), expected, strict=True):
        assert mx.array_equal(a, b).item()


def test_the_self_test_passes(model: LoadedModel) -> None:
    verdict = model.self_test
    assert verdict.logits_identical
    assert verdict.identities
    for identity in verdict.identities:
        assert not identity.failed_layers, identity
        assert identity.worst_relative_error <= identity.tolerance == TOLERANCE


def test_points_that_are_missing_are_known_and_have_a_reason(folder: Path, model: LoadedModel) -> None:
    points = model.describe().points
    assert len(points) == len({(p.site.component, p.site.layer, p.site.side) for p in points})
    assert {p.site.component for p in points} == set(COMPONENTS)
    assert set(COMPONENTS) - {p.site.component for p in points if p.available} == MISSING[folder.name]
    if folder.name != "llama4":  # a component is there in every layer or in none
        assert {p.site.component for p in points if not p.available} == MISSING[folder.name]
    for point in points:
        assert bool(point.reason) != point.available
        assert not point.available or point.module_path or point.site.component == "logits"  # the model itself
        layers = range(4) if COMPONENTS[point.site.component].has_layer else [0]
        assert point.site.layer in layers


def test_captures_have_the_axes_of_their_component(model: LoadedModel, seen: dict[Point, NDArray[Any]]) -> None:
    d = model.description
    for point, value in seen.items():
        if COMPONENTS[point.component].axes == COMPONENTS["resid_post"].axes:
            assert value.shape == (1, len(PROMPT), d.d_model), point
        elif point.component in ("query", "q_proj", "head_output"):
            assert value.shape == (1, len(PROMPT), d.num_heads, d.d_head), point
        elif point.component in ("key", "k_proj", "value"):
            assert value.shape == (1, len(PROMPT), d.num_kv_heads, d.d_head), point
        elif point.component in ("attention_scores", "attention_pattern"):
            assert value.shape == (1, d.num_heads, len(PROMPT), len(PROMPT)), point
        elif point.component == "logits":
            assert value.shape == (1, len(PROMPT), d.vocab_size), point


# ------------------------------------------------------------------------------------------------ what names promise


def test_the_stream_is_a_sum(model: LoadedModel, seen: dict[Point, NDArray[Any]]) -> None:
    """Embedding and every contribution add up to the last stream, over all layers and in any order of the parts."""
    total = seen[Point("resid_pre", 0)].astype(np.float64)
    for layer in range(4):
        assert_close(("resid_pre", layer), total, seen[Point("resid_pre", layer)], tolerance=TOLERANCE)
        total = total + seen[Point("attn_contrib", layer)]
        if Point("resid_mid", layer) in seen:
            assert_close(("resid_mid", layer), total, seen[Point("resid_mid", layer)], tolerance=TOLERANCE)
        total = total + seen[Point("mlp_contrib", layer)]
        assert_close(("resid_post", layer), total, seen[Point("resid_post", layer)], tolerance=TOLERANCE)


def test_scores_are_queries_times_keys(folder: Path, seen: dict[Point, NDArray[Any]]) -> None:
    config = json.loads((folder / "config.json").read_text())
    for layer in layers_with(seen, "attention_scores"):
        query, key = (seen[Point(name, layer)].astype(np.float64) for name in ("query", "key"))
        width = config.get("query_pre_attn_scalar", query.shape[-1])
        keys = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
        scores = np.einsum("bqhd,bkhd->bhqk", query, keys) / math.sqrt(width)
        if cap := config.get("attn_logit_softcapping"):
            scores = cap * np.tanh(scores / cap)
        allowed = numpy_forward.attention_mask(len(PROMPT), window_of(config, layer))
        scores = np.where(allowed, scores, numpy_forward.MASKED_SCORE)
        tested = seen[Point("attention_scores", layer)]
        assert_close(("attention_scores", layer), tested, scores, tolerance=TOLERANCE, exclude_masked=True)


def test_patterns_are_softmaxed_scores(folder: Path, seen: dict[Point, NDArray[Any]]) -> None:
    weights = load_file(folder / "model.safetensors")
    for layer in layers_with(seen, "attention_pattern"):
        scores = seen[Point("attention_scores", layer)].astype(np.float64)
        sinks = weights.get(f"model.layers.{layer}.self_attn.sinks")
        if sinks is not None:  # gpt-oss: a key that is nowhere takes a share
            sink = np.broadcast_to(sinks.astype(np.float64)[None, :, None, None], (*scores.shape[:3], 1))
            scores = np.concatenate([scores, sink], axis=-1)
        expected = numpy_forward.softmax(scores)[..., : len(PROMPT)]
        tested = seen[Point("attention_pattern", layer)]
        assert_close(("attention_pattern", layer), tested, expected, tolerance=TOLERANCE)
        sums = tested.sum(axis=-1)
        assert (sums < 1).all() if sinks is not None else relative_error(sums, np.ones_like(sums)) < 1e-6


def test_head_outputs_are_patterns_times_values(seen: dict[Point, NDArray[Any]]) -> None:
    for layer in layers_with(seen, "head_output"):
        pattern, value = (seen[Point(name, layer)].astype(np.float64) for name in ("attention_pattern", "value"))
        values = np.repeat(value, pattern.shape[1] // value.shape[2], axis=2)
        expected = np.einsum("bhqk,bkhd->bqhd", pattern, values)
        assert_close(("head_output", layer), seen[Point("head_output", layer)], expected, tolerance=TOLERANCE)


@pytest.mark.parametrize("folder", ["llama", "gpt2", "qwen2", "qwen3"], indirect=True)
def test_the_numpy_forward_pass_agrees_where_it_knows_the_family(folder: Path, seen: dict[Point, NDArray[Any]]) -> None:
    expected = numpy_forward.forward(folder, PROMPT)
    for (component, layer), tensor in expected.items():
        tested = seen[Point(component, layer)]
        assert_close((component, layer), tested, tensor, tolerance=5e-6, exclude_masked="scores" in component)


def test_experts_are_the_router_s_favourites(folder: Path, seen: dict[Point, NDArray[Any]]) -> None:
    layers = layers_with(seen, "router_logits")
    assert bool(layers) == ("router_logits" not in MISSING[folder.name])
    for layer in layers:
        logits, chosen = seen[Point("router_logits", layer)], seen[Point("expert_indices", layer)]
        best = np.argsort(-logits, axis=-1)[..., : chosen.shape[-1]]
        np.testing.assert_array_equal(np.sort(chosen, axis=-1), np.sort(best, axis=-1))
        favourites = np.take_along_axis(logits.astype(np.float64), chosen, axis=-1)
        is_sigmoid = folder.name == "llama4"  # every other family: a softmax over the chosen, written in two ways
        expected = 1 / (1 + np.exp(-favourites)) if is_sigmoid else numpy_forward.softmax(favourites)
        assert_close(("expert_weights", layer), seen[Point("expert_weights", layer)], expected, tolerance=TOLERANCE)


def layers_with(seen: dict[Point, NDArray[Any]], component: str) -> list[int]:
    """Layers in which a component was seen."""
    return [layer for layer in range(4) if Point(component, layer) in seen]
