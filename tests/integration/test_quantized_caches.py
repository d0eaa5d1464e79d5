"""Keys and values kept in few bits: what mlx-lm computes with them, every point of it, edits, and what is refused.

python -m pytest tests/integration/test_quantized_caches.py
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from neuroscope import Client, edit
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.local import LocalTransport
from tests.support.compare import relative_error
from tests.support.random_models import make_model
from tests.support.recording import capture_request, generate_request, prompt, record
from tests.support.services import inference_service

IDS = [0, *np.random.default_rng(5).integers(5, 500, 40).tolist()]
GROUP = 32
LAYERS, HEADS, KV_HEADS, D_HEAD = 2, 4, 2, 64
EIGHT = pb.CacheQuantization(bits=8, group_size=GROUP)
SITES = ("query", "key", "value", "attention_scores", "attention_pattern", "head_output", "resid_post", "logits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "head_dim": D_HEAD}
    return make_model("llama", tmp_path_factory.mktemp("models") / "wide", num_key_value_heads=KV_HEADS, **shape)


@pytest.fixture(scope="module")
def transport(folder: Path, llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTransport]:
    families = tmp_path_factory.mktemp("families")
    others = [make_model(f, families / f, head_dim=32) for f in ("gemma2", "gemma3_text")]
    transport = LocalTransport(model=[str(path) for path in (folder, llama_dir, *others)])
    yield transport
    transport.close()


@pytest.mark.parametrize("bits", [4, 8])
def test_tokens_and_logits_are_those_of_mlx_lm(transport: LocalTransport, folder: Path, bits: int) -> None:
    network: Any = mlx_lm.load(str(folder))[0]
    cache = [QuantizedKVCache(GROUP, bits) for _ in range(LAYERS)]
    logits = network(mx.array([IDS]), cache=cache)
    expected: list[int] = []
    for _ in range(12):
        expected.append(int(scalar(mx.argmax(logits[0, -1]))))
        logits = network(mx.array([[expected[-1]]]), cache=cache)
    quantization = pb.CacheQuantization(bits=bits, group_size=GROUP)
    request = generate_request(prompt(IDS), max_tokens=12, ignore_eos=True, cache_quantization=quantization)
    assert record(transport, request).token_ids() == expected
    request.hooks.extend(capture_request(prompt(IDS), *SITES).hooks)
    assert record(transport, request).token_ids() == expected


def test_what_is_captured_is_what_attention_makes_of_the_bits(transport: LocalTransport) -> None:
    exact = record(transport, capture_request(prompt(IDS), *SITES))
    found = record(transport, capture_request(prompt(IDS), *SITES, cache_quantization=EIGHT))
    for name in ("key", "value"):  # of layer 0, whose inputs are the same
        kept = mx.quantize(mx.array(exact.array(name, 0)), group_size=GROUP, bits=8)
        assert np.array_equal(found.array(name, 0), np.array(mx.dequantize(*kept, group_size=GROUP, bits=8)))
        assert not np.array_equal(found.array(name, 0), exact.array(name, 0))
    for layer in range(LAYERS):
        queries, keys, values = (found.array(name, layer).astype(np.float64)[0] for name in ("query", "key", "value"))
        keys, values = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (keys, values))
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(D_HEAD)
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        assert relative_error(found.array("attention_pattern", layer)[0], pattern) < 1e-5
        mixed = np.einsum("hqk,khd->qhd", pattern, values)
        assert relative_error(found.array("head_output", layer)[0], mixed) < 1e-5
    assert 1e-4 < relative_error(found.array("logits"), exact.array("logits")) < 0.1


def test_chunks_make_no_difference(transport: LocalTransport) -> None:
    whole = record(transport, capture_request(prompt(IDS), "resid_post", cache_quantization=EIGHT))
    request = capture_request(prompt(IDS), "resid_post", cache_quantization=EIGHT, chunk_budget_bytes=7 * 2 * 256 * 4)
    chunked = record(transport, request)
    assert len(chunked.of("resid_post", 1)) == 6
    # A key that differs by 1e-7 may round to the next step of its bits.
    assert relative_error(chunked.array("resid_post", 1), whole.array("resid_post", 1)) < 5e-4


def test_an_edit_of_keys_and_values_stays_in_the_cache(transport: LocalTransport) -> None:
    """Values of head 1 are zeroed in the prompt: what later tokens read of them is zero as well."""
    zeroed = edit("value", 0, lambda act: act.heads[1].zero(), steps=0)
    doubled = edit("key", 0, lambda act: act * 2.0, steps=0)
    request = generate_request(
        prompt(IDS),
        Hook("value", 0),
        Hook("key", 0),
        Hook("attention_pattern", 0),
        Hook("head_output", 0),
        max_tokens=4,
        ignore_eos=True,
        cache_quantization=EIGHT,
        interventions=[zeroed.message, doubled.message],
    )
    found = record(transport, request)
    values = found.array("value", 0)[0]
    assert not values[: len(IDS), 1].any()
    assert values[: len(IDS), 0].any()
    assert values[len(IDS) :, 1].any()
    last = found.of("attention_pattern", 0)[-1].array[0, :, 0]  # (heads, keys) of the last step
    mixed = np.einsum(
        "hk,khd->hd", last.astype(np.float64), np.repeat(values, HEADS // KV_HEADS, axis=1).astype(np.float64)
    )
    assert relative_error(found.array("head_output", 0)[0, -1], mixed) < 1e-5
    del request.interventions[:]
    plain = record(transport, request)
    prompt_keys = 2 * mx.array(plain.array("key", 0)[:, : len(IDS)])
    kept = mx.dequantize(*mx.quantize(prompt_keys, group_size=GROUP, bits=8), group_size=GROUP, bits=8)
    assert relative_error(found.array("key", 0)[:, : len(IDS)], np.array(kept)) < 1e-6


def test_among_others_each_has_its_own_kind_of_cache(transport: LocalTransport) -> None:
    """Four rows, two of them quantised, at the same time."""
    requests = [
        generate_request(prompt(IDS[index:]), "resid_post", max_tokens=10, ignore_eos=True, cache_quantization=kind)
        for index, kind in enumerate((None, EIGHT, None, EIGHT))
    ]
    alone = [record(transport, request) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: record(transport, request), requests))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids() == other.token_ids()
        assert relative_error(other.array("resid_post", 1), one.array("resid_post", 1)) < 1e-5


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"kv_bits": 7}, "cache_quantization.bits", "7 bits: there are 2, 3, 4, 5, 6, 8"),
        ({"kv_bits": 8, "kv_group_size": 48}, "cache_quantization.group_size", "groups of 48: there are 32, 64, 128"),
        ({"kv_bits": 8, "kv_group_size": 128}, "cache_quantization", "llama.* stay as they are: .*divisible"),
        ({"kv_bits": 8, "model_id": "gemma2"}, "cache_quantization", "the model cannot attend to them"),
        ({"kv_bits": 8, "model_id": "gemma3_text"}, "cache_quantization", "keep their keys in a ring"),
    ],
)
def test_what_cannot_be_quantised_is_refused_with_the_reason(
    transport: LocalTransport, fields: dict[str, Any], field: str, says: str
) -> None:
    fields = {"model_id": "llama", "kv_group_size": 32, **fields}
    client = Client(transport=transport)
    for call in (client.capture, client.estimate_capture):
        with pytest.raises(InvalidRequestError, match=says) as caught:
            call(IDS, ["resid_post"], **fields)
        assert caught.value.field.endswith(field)
    with pytest.raises(InvalidRequestError, match=says):
        list(client.generate(IDS, **fields))


def test_over_grpc_and_what_it_saves(folder: Path) -> None:
    with inference_service(folder) as service, Client(transport=GrpcTransport(service.target)) as client:
        exact = client.estimate_capture(IDS * 20, ["resid_post.1"])
        eight = client.estimate_capture(IDS * 20, ["resid_post.1"], kv_bits=4, kv_group_size=GROUP)
        assert eight.tensor_bytes == exact.tensor_bytes
        assert eight.peak_memory_bytes < exact.peak_memory_bytes
        found = client.capture(IDS, ["key"], kv_bits=8, kv_group_size=GROUP)
        assert found["key", 0].shape == (1, len(IDS), KV_HEADS, D_HEAD)
