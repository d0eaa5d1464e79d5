"""Reductions computed in the model's graph, against numpy on full captures.

python -m pytest tests/integration/test_reductions_of_captures.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuroscope import Client
from neuroscope.errors import DataConversionError, InvalidRequestError, UnknownIdError
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.engine.forward import max_chunk_positions
from neuroscope_inference.local import LocalTransport
from tests.support.random_models import make_model
from tests.support.recording import capture_request, prompt, record

IDS = [0, *np.random.default_rng(7).integers(5, 500, 40).tolist()]
SMALL = 20_000
RNG = np.random.default_rng(11)
DIRECTIONS = RNG.standard_normal((3, 128)).astype(np.float32)
MODELS = ("llama", "gpt2", "gemma3_text")
SITES = ("resid_post", "attn_out", "head_output", "mlp_neurons", "logits", "attention_pattern")


@pytest.fixture(scope="module")
def client(llama_dir: Path, gpt2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = make_model("gemma3_text", tmp_path_factory.mktemp("models") / "gemma3_text")
    transport = LocalTransport(model=[str(llama_dir), str(gpt2_dir), str(folder)])
    yield Client(transport=transport)
    transport.close()


def close(found: Any, expected: Any, tolerance: float = 2e-6) -> None:
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * scale


@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("budget_bytes", [0, SMALL])
def test_mean_norm_and_top_k_are_those_of_the_full_capture(
    client: Client, model_id: str, site: str, budget_bytes: int
) -> None:
    hooks = [Hook(site, reduce=reduce) for reduce in ("mean", "norm", {"top_k": 7})]
    cache = client.capture(IDS, [site, *hooks], model_id=model_id, chunk_budget_bytes=budget_bytes)
    for layer in (0, 3):

        def of(name: str, layer: int = layer) -> Any:
            return np.asarray(cache[name] if site == "logits" else cache[name, layer])

        full = of(site)
        axis = 2 if site == "attention_pattern" else 1
        close(of(f"{site}:mean"), full.astype(np.float64).mean(axis))
        close(of(f"{site}:norm"), np.linalg.norm(full.astype(np.float64), axis=-1))
        values, indices = of(f"{site}:top_k"), of(f"{site}:top_k_indices")
        assert indices.dtype == np.int32
        expected = np.sort(full, axis=-1)[..., ::-1][..., :7]
        np.testing.assert_array_equal(values, expected)
        taken = np.take_along_axis(full, np.maximum(indices, 0), axis=-1)
        np.testing.assert_array_equal(np.where(indices < 0, 0, taken), values)


@pytest.mark.parametrize("model_id", MODELS)
def test_projections_are_those_of_the_full_capture(client: Client, model_id: str) -> None:
    hooks = ["resid_post", Hook("resid_post", reduce={"project": DIRECTIONS})]
    cache = client.capture(IDS, hooks, model_id=model_id, chunk_budget_bytes=SMALL)
    full = np.asarray(cache["resid_post", 2], np.float64)
    close(np.asarray(cache["resid_post:projection", 2]), full @ DIRECTIONS.T.astype(np.float64))


@pytest.mark.parametrize("model_id", MODELS)
def test_a_mean_counts_the_selected_positions_of_all_chunks(client: Client, model_id: str) -> None:
    for positions in ([3, 30, -1], slice(5, -2), slice(20, None), [0]):
        hooks = [
            Hook("ln2", hook_id="full", positions=positions),
            Hook("ln2", hook_id="mean", positions=positions, reduce="mean"),
        ]
        cache = client.capture(IDS, hooks, model_id=model_id, chunk_budget_bytes=1)
        close(np.asarray(cache["mean", 1]), np.asarray(cache["full", 1], np.float64).mean(1))


def test_rows_have_means_of_their_own(client: Client) -> None:
    rows = [IDS, IDS[:11], IDS[5:30]]
    cache = client.capture(rows, ["resid_post", Hook("resid_post", reduce="mean")], chunk_budget_bytes=SMALL)
    means = cache["resid_post:mean", 3]
    assert means.shape == (3, 128)
    for row, mean in enumerate(means):
        close(np.asarray(mean), np.asarray(cache.row(row)["resid_post", 3], np.float64).mean(1)[0])


def test_heads_are_selected_before_the_reduction(client: Client) -> None:
    hooks = [Hook("head_output", 1), Hook("head_output", 1, heads=[5, -1], reduce="norm")]
    cache = client.capture(IDS, hooks)
    full = np.asarray(cache["head_output", 1], np.float64)
    close(np.asarray(cache["head_output:norm", 1]), np.linalg.norm(full[:, :, [5, 7]], axis=-1))


def test_in_a_generation_every_step_has_its_own(client: Client) -> None:
    hooks = ["resid_post", *(Hook("resid_post", reduce=reduce) for reduce in ("mean", "norm", {"top_k": 2}))]
    with client.generate(IDS[:9], hooks=hooks, max_tokens=5, ignore_eos=True) as generation:
        list(generation)
        cache = generation.cache
    full = np.asarray(cache["resid_post", 1], np.float64)
    assert full.shape[1] == 9 + 4
    means = np.asarray(cache["resid_post:mean", 1])
    close(means[0, 0], full[0, :9].mean(0))
    close(means[0, 1:], full[0, 9:])
    close(np.asarray(cache["resid_post:norm", 1]), np.linalg.norm(full, axis=-1))
    close(np.asarray(cache["resid_post:top_k", 1]), -np.sort(-full, axis=-1)[..., :2])
    assert cache.positions(("resid_post:mean", 1)).tolist() == [0, 9, 10, 11, 12]


def test_means_of_patterns_in_a_generation_grow(client: Client) -> None:
    hooks = ["attention_pattern.2", Hook("attention_pattern", 2, reduce="mean")]
    for model_id in ("llama", "gemma3_text"):
        with client.generate(IDS[:20], hooks=hooks, max_tokens=6, ignore_eos=True, model_id=model_id) as generation:
            list(generation)
            cache = generation.cache
        full = np.asarray(cache["attention_pattern", 2], np.float64)
        means = np.asarray(cache["attention_pattern:mean", 2])
        close(means[:, 0], full[:, :, :20].mean(2))
        close(means[:, 1:], np.moveaxis(full[:, :, 20:], 2, 1))


def test_types_are_as_the_plan_says(grpc_transport: GrpcTransport) -> None:
    hooks = [
        Hook("resid_post", 0, reduce="norm"),
        Hook("resid_post", 0, reduce="mean", dtype="bfloat16"),
        Hook("resid_post", 0, reduce={"top_k": 3}, dtype="float16"),
        Hook("attention_pattern", 0, reduce="norm"),
        Hook("resid_post", 0, reduce={"project": DIRECTIONS}, hook_id="p"),
    ]
    recording = record(grpc_transport, capture_request(prompt(IDS), *hooks))
    assert recording.plan is not None
    t = tensor_pb2
    told = [(s.hook_id, s.reduced, s.dtype, list(s.axes), list(s.shape)) for s in recording.plan.tensors]
    batch, position = t.AXIS_BATCH, t.AXIS_POSITION
    rank = [batch, position, t.AXIS_RANK]
    assert told == [
        ("resid_post.0:norm", t.REDUCED_NORM, t.DATA_TYPE_FLOAT32, [batch, position], [1, -1]),
        ("resid_post.0:mean", t.REDUCED_MEAN, t.DATA_TYPE_BFLOAT16, [batch, t.AXIS_D_MODEL], [1, 128]),
        ("resid_post.0:top_k", t.REDUCED_TOP_K, t.DATA_TYPE_FLOAT16, rank, [1, -1, 3]),
        ("resid_post.0:top_k", t.REDUCED_TOP_K_INDICES, t.DATA_TYPE_INT32, rank, [1, -1, 3]),
        ("attention_pattern.0:norm", t.REDUCED_NORM, t.DATA_TYPE_FLOAT32, [batch, t.AXIS_HEAD, position], [1, 8, -1]),
        ("p", t.REDUCED_PROJECTION, t.DATA_TYPE_FLOAT32, [batch, position, t.AXIS_DIRECTION], [1, -1, 3]),
    ]
    for piece in recording.pieces:
        assert all(extent in (-1, n) for extent, n in zip(piece.spec.shape, piece.array.shape, strict=True))
    assert recording.pieces[1].array.dtype == ml_dtypes.bfloat16


def test_reductions_make_chunks_longer(grpc_transport: GrpcTransport) -> None:
    def chunk_positions(*hooks: Any) -> int:
        recording = record(grpc_transport, capture_request(prompt(IDS), *hooks, chunk_budget_bytes=SMALL))
        assert recording.plan is not None
        return recording.plan.chunk_positions

    assert chunk_positions("resid_post") == SMALL // (4 * 128 * 4)
    assert chunk_positions(Hook("resid_post", reduce="norm")) == max_chunk_positions()
    assert chunk_positions(Hook("resid_post", reduce="mean")) == max_chunk_positions()
    assert chunk_positions(Hook("resid_post", reduce={"top_k": 50})) == SMALL // (4 * 50 * 8)


def test_fewer_keys_than_k_are_filled_up(client: Client) -> None:
    hooks = [Hook(name, 0, reduce={"top_k": 6}) for name in ("attention_pattern", "attention_scores")]
    cache = client.capture(IDS[:4], hooks)
    assert cache["attention_pattern:top_k_indices", 0][..., 4:].tolist() == np.full((1, 8, 4, 2), -1).tolist()
    assert (np.asarray(cache["attention_pattern:top_k", 0])[..., 4:] == 0).all()
    assert (np.asarray(cache["attention_scores:top_k", 0])[..., 4:] == np.finfo(np.float32).min).all()


@pytest.mark.parametrize(
    ("hook", "error", "field"),
    [
        (Hook("logits", reduce={"top_k": 0}), InvalidRequestError, "reduction.top_k.k"),
        (Hook("logits", reduce={"top_k": 513}), InvalidRequestError, "reduction.top_k.k"),
        (Hook("attention_scores", reduce="mean"), InvalidRequestError, "reduction"),
        (Hook("attention_scores", reduce="norm"), InvalidRequestError, "reduction"),
        (Hook("attention_pattern", reduce={"project": DIRECTIONS}), InvalidRequestError, "reduction.projection"),
        (Hook("ln1", reduce={"project": DIRECTIONS[:, :5]}), InvalidRequestError, "reduction.projection.directions"),
        (Hook("ln1", reduce={"project": DIRECTIONS[0]}), InvalidRequestError, "reduction.projection.directions"),
        (
            Hook("ln1", reduce={"project": np.full((1, 128), np.nan, np.float32)}),
            DataConversionError,
            "reduction.projection.directions.inline.data",
        ),
        (Hook("ln1", reduce={"project": "abc"}), UnknownIdError, "reduction.projection.directions.tensor_id"),
        (
            Hook("ln1", reduce={"project": tensor_pb2.TensorReference()}),
            InvalidRequestError,
            "reduction.projection.directions",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, hook: Hook, error: type[Any], field: str) -> None:
    with pytest.raises(error) as caught:
        client.capture(IDS, ["ln2", hook])
    assert caught.value.field == f"hooks[1].{field}"


def test_rows_that_generate_together_have_reductions_of_their_own(client: Client) -> None:
    hooks: list[Any] = ["attention_pattern.1", "resid_post.2"]
    hooks += [Hook(name, layer, reduce="mean") for name, layer in (("attention_pattern", 1), ("resid_post", 2))]
    hooks += [Hook("attention_pattern", 1, reduce={"top_k": 3})]
    with client.generate([IDS[:9], IDS[:23]], hooks=hooks, max_tokens=5, ignore_eos=True) as generation:
        list(generation)
        cache = generation.cache
    for row, length in enumerate((9, 23)):
        one = cache.row(row)
        pattern, residual = (np.asarray(one[name], np.float64) for name in ("attention_pattern.1", "resid_post.2"))
        close(np.asarray(one["resid_post.2:mean"])[:, 0], residual[:, :length].mean(1))
        close(np.asarray(one["resid_post.2:mean"])[:, 1:], residual[:, length:])
        close(np.asarray(one["attention_pattern.1:mean"])[:, 0], pattern[:, :, :length].mean(2))
        close(np.asarray(one["attention_pattern.1:mean"])[:, 1:], np.moveaxis(pattern[:, :, length:], 2, 1))
        best, indices = (np.asarray(one[f"attention_pattern.1:{name}"]) for name in ("top_k", "top_k_indices"))
        np.testing.assert_array_equal(best, np.sort(pattern, axis=-1)[..., ::-1][..., :3])
        np.testing.assert_array_equal(best, np.take_along_axis(pattern, indices.astype(np.int64), axis=-1))
