"""Reductions as users write them, and what a cache makes of reduced tensors.

python -m pytest tests/unit/test_reductions.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope.activations.cache import ActivationCache
from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.reductions import to_message
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.codec import Frame
from neuroscope.wire.frames import FramePacker, FrameReader, OutgoingTensor

B, P, K, M, R, H = (
    tensor_pb2.AXIS_BATCH,
    tensor_pb2.AXIS_POSITION,
    tensor_pb2.AXIS_KEY_POSITION,
    tensor_pb2.AXIS_D_MODEL,
    tensor_pb2.AXIS_RANK,
    tensor_pb2.AXIS_HEAD,
)


def test_every_form_has_its_message() -> None:
    assert to_message(None) is None
    assert to_message("") is None
    for form, kind in (("mean", "mean"), ("norm", "norm"), ({"top_k": 5}, "top_k"), ({"project": "id"}, "projection")):
        message = to_message(form)  # type: ignore[arg-type]
        assert message is not None
        assert message.WhichOneof("kind") == kind
        assert to_message(message) is message
    hook = Hook("logits", reduce={"top_k": np.int64(5)}).to_message()
    assert hook.reduction.top_k.k == 5
    assert not Hook("logits").to_message().HasField("reduction")


def test_directions_are_an_array_an_id_or_a_reference() -> None:
    def directions(value: Any) -> tensor_pb2.TensorReference:
        message = to_message({"project": value})
        assert message is not None
        return message.projection.directions

    assert directions("abc").tensor_id == "abc"
    reference = tensor_pb2.TensorReference(captured=tensor_pb2.CapturedTensor(capture_id="a"))
    assert directions(reference) == reference
    inline = directions([[1.0, 2.0], [3.0, 4.0]]).inline
    assert (inline.dtype, list(inline.shape)) == (tensor_pb2.DATA_TYPE_FLOAT32, [2, 2])
    assert inline.data == np.array([[1, 2], [3, 4]], np.float32).tobytes()


@pytest.mark.parametrize(
    "wrong", ["median", {"top_k": 1.5}, {"top_k": 1, "project": "a"}, {}, {"sum": 1}, 3, {"project": [[None]]}]
)
def test_another_form_is_refused(wrong: Any) -> None:
    with pytest.raises((InvalidRequestError, DataConversionError)):
        to_message(wrong)


def spec(index: int, component: str, layer: int | None, axes: list[Any], reduced: Any, **fields: Any) -> Any:
    values: dict[str, Any] = {"hook_id": "h", "dtype": tensor_pb2.DATA_TYPE_FLOAT32, **fields}
    return tensor_pb2.TensorSpec(
        plan_index=index, site=Point(component, layer).to_message(), axes=axes, reduced=reduced, **values
    )


PLAN = [
    spec(0, "resid_post", 0, [B, P, M], tensor_pb2.REDUCED_UNSPECIFIED, hook_id="resid_post.0"),
    spec(1, "resid_post", 0, [B, P], tensor_pb2.REDUCED_NORM, hook_id="resid_post.0:norm"),
    spec(2, "ln1", 0, [B, P, R], tensor_pb2.REDUCED_TOP_K, hook_id="best"),
    spec(3, "ln1", 0, [B, P, R], tensor_pb2.REDUCED_TOP_K_INDICES, hook_id="best", dtype=tensor_pb2.DATA_TYPE_INT32),
    spec(4, "ln2", 1, [B, P], tensor_pb2.REDUCED_NORM, hook_id="x"),
    spec(5, "ln2", 1, [B, P], tensor_pb2.REDUCED_NORM, hook_id="y"),
    spec(6, "attention_pattern", 2, [B, H, K], tensor_pb2.REDUCED_MEAN, hook_id="m"),
]


def cache_of(plan: list[Any], *steps: list[Any]) -> ActivationCache:
    packer, reader, cache = FramePacker(plan), FrameReader(tensor_pb2.TensorPlan(tensors=plan)), ActivationCache()
    cache.begin("llama", [[1, 2, 3]])
    cache.expect(plan, reader.digests)
    for step, arrays in enumerate(steps):
        tensors = [
            OutgoingTensor(entry.plan_index, 0, array.shape, step, memoryview(array.tobytes()))
            for entry, array in zip(plan, arrays, strict=True)
        ]
        for framed in packer.pack(step, tensors):
            for piece in reader.read(Frame(framed.header, (framed.payload,))):
                cache.add(piece)
    return cache


@pytest.fixture
def cache() -> ActivationCache:
    rng = np.random.default_rng(0)
    shapes = [(1, 3, 4), (1, 3), (1, 3, 2), (1, 3, 2), (1, 3), (1, 3), (1, 8, 3)]
    arrays: list[Any] = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[3] = np.arange(6, dtype=np.int32).reshape(1, 3, 2)
    return cache_of(PLAN, arrays)


def test_a_reduction_is_found_beside_its_tensor_and_in_its_place(cache: ActivationCache) -> None:
    assert list(cache) == [
        "resid_post.0",
        "resid_post.0:norm",
        "ln1.0:top_k",
        "ln1.0:top_k_indices",
        "x:ln2.1:norm",
        "y:ln2.1:norm",
        "attention_pattern.2:mean",
    ]
    assert cache["resid_post", 0].shape == cache["resid_post"].shape == cache[Point("resid_post", 0)].shape == (1, 3, 4)
    assert cache["resid_post:norm", 0].shape == cache["resid_post.0:norm"].shape == (1, 3)
    for key in (("ln1", 0), ("ln1:top_k", 0), "best", Point("ln1", 0), ("best:top_k", 0)):
        assert cache[key].dtype == np.float32  # type: ignore[index]
    for key in (("ln1:top_k_indices", 0), "best:top_k_indices"):
        assert cache[key].dtype == np.int32  # type: ignore[index]
    assert "ln1:mean" not in cache
    with pytest.raises(KeyError, match="by 2 hooks; name one of them: x, y"):
        cache["ln2", 1]
    assert len(cache.checksums()) == len(PLAN)
    assert "resid_post:norm" in repr(cache)


def test_a_file_keeps_what_was_reduced(cache: ActivationCache, tmp_path: Path) -> None:
    cache.save(tmp_path / "cache.safetensors")
    loaded = ActivationCache.load(tmp_path / "cache.safetensors")
    assert list(loaded) == list(cache)
    assert loaded.checksums() == cache.checksums()
    for key in cache:
        np.testing.assert_array_equal(loaded[key], cache[key])


def test_means_of_patterns_over_steps_are_as_wide_as_the_last() -> None:
    plan = [spec(0, "attention_pattern", 2, [B, H, K], tensor_pb2.REDUCED_MEAN)]
    steps = [np.full((1, 8, width), width, np.float32) for width in (3, 4, 5)]
    cache = cache_of(plan, *([step] for step in steps))
    assert cache.find("attention_pattern").shape(0) == (1, 3, 8, 5)
    assert cache["attention_pattern", 2][0, :, 0].tolist() == [[3, 3, 3, 0, 0], [4, 4, 4, 4, 0], [5] * 5]


def test_a_contract_message_of_a_reduction_is_that_of_the_hook() -> None:
    message = inference_pb2.Reduction(norm=inference_pb2.NormReduction())
    assert Hook("ln1", reduce=message).to_message().reduction == message
