"""Attention over sliding windows: key columns in ring order, prompts and generations longer than the window.

python -m pytest tests/integration/test_engine_rotating_cache.py
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.rpc import RPCS
from neuroscope_inference.local import LocalTransport
from tests.support import numpy_forward
from tests.support.compare import assert_all_close, assert_close
from tests.support.random_models import make_model
from tests.support.recording import Recording, capture_request, generate_request, prompt, record
from tests.support.sliding import window_of

WINDOW = 16
PROMPT = [0, *np.random.default_rng(5).integers(5, 500, 22).tolist()]  # longer than the window
DECODE_STEPS = 40  # more than two windows, so that the ring turns more than once
SLIDING_LLAMA: dict[str, Any] = {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": WINDOW}
EVERY_LAYER = ["query", "key", "attention_scores", "attention_pattern", "head_output", "value"]


@pytest.fixture(scope="module", params=["gemma3_text", "gpt_oss", "cohere2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = SLIDING_LLAMA if request.param == "llama" else {}
    return make_model(request.param, tmp_path_factory.mktemp("sliding") / request.param, **overrides)


@pytest.fixture(scope="module")
def transport(folder: Path) -> Iterator[LocalTransport]:
    transport = LocalTransport()
    for _ in transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folder))):
        pass
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def generated(transport: LocalTransport) -> Recording:
    request = generate_request(prompt(PROMPT), *EVERY_LAYER, max_tokens=DECODE_STEPS + 1, ignore_eos=True)
    return record(transport, request)


def test_patterns_of_every_step_are_those_of_the_whole_sequence(folder: Path, generated: Recording) -> None:
    """Computed in numpy from queries and keys alone, which have no columns, with the window of the papers."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    length = len(PROMPT) + DECODE_STEPS
    for layer in range(4):
        query, key = (generated.array(name, layer).astype(np.float64) for name in ("query", "key"))
        assert query.shape[1] == key.shape[1] == length
        keys = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
        scores = np.einsum("bqhd,bkhd->bhqk", query, keys)
        scores /= math.sqrt(config.get("query_pre_attn_scalar", query.shape[-1]))
        window = window_of(config, layer)
        scores = np.where(numpy_forward.attention_mask(length, window), scores, numpy_forward.MASKED_SCORE)
        tested = generated.array("attention_scores", layer)
        assert_close(("attention_scores", layer), tested, scores, tolerance=1e-5, exclude_masked=True)
        sinks = weights.get(f"model.layers.{layer}.self_attn.sinks")
        if sinks is not None:
            sink = np.broadcast_to(sinks.astype(np.float64)[None, :, None, None], (*scores.shape[:3], 1))
            scores = np.concatenate([scores, sink], axis=-1)
        pattern = numpy_forward.softmax(scores)[..., :length]
        assert_close(("attention_pattern", layer), generated.array("attention_pattern", layer), pattern, tolerance=1e-5)
        value = generated.array("value", layer).astype(np.float64)
        values = np.repeat(value, pattern.shape[1] // value.shape[2], axis=2)
        z = np.einsum("bhqk,bkhd->bqhd", pattern, values)
        assert_close(("head_output", layer), generated.array("head_output", layer), z, tolerance=1e-5)


def test_columns_out_of_order_say_which_keys_they_are(folder: Path, generated: Recording) -> None:
    config = json.loads((folder / "config.json").read_text())
    for layer in range(4):
        pieces = generated.of("attention_pattern", layer)
        for piece in pieces[1:]:
            position = piece.first_position
            expected = range(position + 1)
            if window_of(config, layer) is not None:
                expected = range(max(0, position - WINDOW + 1), position + 1)
            columns = list(piece.key_positions) or list(range(piece.array.shape[-1]))
            assert sorted(columns) == list(expected), (layer, position)
        ring = [list(piece.key_positions) for piece in pieces[1:]]
        is_sliding = window_of(config, layer) is not None
        assert any(columns != sorted(columns) for columns in ring) == is_sliding


@pytest.mark.parametrize("budget_bytes", [1, 30_000])
def test_chunks_of_a_long_prompt_are_the_whole(
    transport: LocalTransport, generated: Recording, budget_bytes: int
) -> None:
    sequence = [*PROMPT, *generated.token_ids()[:-1]]
    chunked = record(transport, capture_request(prompt(sequence), *EVERY_LAYER, chunk_budget_bytes=budget_bytes))
    assert len(chunked.of("key", 0)) > 1
    assert_all_close(chunked.arrays(), generated.arrays(), tolerance=1e-5)


def test_stopping_at_a_layer_leaves_the_caches_above_it_alone(transport: LocalTransport) -> None:
    recording = record(transport, capture_request(prompt(PROMPT), "resid_post.0", "resid_pre.1", stop_at_layer=1))
    np.testing.assert_array_equal(recording.array("resid_post", 0), recording.array("resid_pre", 1))


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_a_sliding_llama_is_the_numpy_forward_pass(
    folder: Path, transport: LocalTransport, generated: Recording
) -> None:
    expected = numpy_forward.forward(folder, [*PROMPT, *generated.token_ids()[:-1]])
    assert_all_close(generated.arrays(), expected, tolerance=1e-5)
