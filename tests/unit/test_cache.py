"""neuroscope.activations.cache, activation and cache_file: names, joining, padding, rows, files, pictures."""

import json
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from neuroscope import ActivationCache, MissingActivationError, UnknownSiteError
from neuroscope.activations.stream import StreamState
from neuroscope.errors import ChecksumError, DataConversionError
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.frames import FrameReader
from tests.support.streams import Stream, outgoing


def fill(stream: Stream, *steps, finished: bool = False) -> ActivationCache:
    """A cache of a stream whose steps are lists of tensors; the bytes go through frames."""
    state = StreamState()
    for event in (stream.started(), stream.plan()):
        state.feed(event)
    for step, tensors in enumerate(steps):
        for frame in stream.frames(step, *tensors):
            state.feed(frame)
    if finished:
        state.feed(stream.manifest())
    return state.cache


def ramp(*shape: int, start: float = 0, dtype: Any = "float32") -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) + start).astype(dtype)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def cache() -> ActivationCache:
    """Three layers of two components, the embedding, and an input, over 3 positions."""
    points = [Point("resid_post", layer) for layer in range(3)] + [Point("attn_out", layer) for layer in range(3)]
    stream = Stream(*points, Point("embedding"), Point("mlp_out", 1, True), ("mine", Point("value", 2)))
    tensors = [outgoing(index, ramp(1, 3, 4, start=100 * index)) for index in range(8)]
    return fill(stream, [*tensors, outgoing(8, ramp(1, 3, 2, 2))], finished=True)


@pytest.mark.parametrize(
    ("key", "start"),
    [
        (("resid_post", 1), 100),
        (("resid_post", -1), 200),
        (("resid_post", np.int64(1)), 100),
        ("resid_post.1", 100),
        ("blocks.1.hook_resid_post", 100),
        (("residual", 1), 100),
        (("attn_out", 0), 300),
        (("attention", 0), 300),
        ("embedding", 600),
        ("hook_embed", 600),
        ("embed", 600),
        ("mlp_out.1.input", 700),
        (("mlp_out.input", 1), 700),
        (Point("resid_post", 2), 200),
        (Point("mlp_out", 1, True), 700),
    ],
)
def test_every_spelling_finds_its_activation(cache, key, start):
    np.testing.assert_array_equal(cache[key], ramp(1, 3, 4, start=start))
    assert key in cache


@pytest.mark.parametrize("key", ["mine", ("mine", 2), "value.2", ("value", 2), ("v", 2), ("v", 2, "attn"), "value"])
def test_hook_ids_and_short_names(cache, key):
    assert cache[key].shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("resid_post", 7), r"resid_post.7 was not captured; nearest: resid_post.\d"),
        (("resid_post", -4), "was not captured"),
        (("pattern", 0), "was not captured"),
        ("resid_pst", "unknown component 'resid_pst'; nearest: resid_post"),
        ("resid_post", re.escape("names 3 activations; add the layer, such as cache['resid_post', 0]")),
        (("mine", 1), "was not captured"),
        (3, "a cache is indexed by"),
        (("resid_post", "1"), "a cache is indexed by"),
        (("embedding", 3), "embedding.3 was not captured; nearest: embedding"),
    ],
)
def test_what_is_missing_says_so(cache, key, message):
    with pytest.raises(MissingActivationError, match=message) as caught:
        cache[key]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, UnknownSiteError)


def test_it_is_a_mapping(cache):
    assert list(cache)[:3] == ["resid_post.0", "resid_post.1", "resid_post.2"]
    assert len(cache) == len(list(cache)) == 9
    assert cache.get(("resid_post", 9)) is None
    assert "resid_post.9" not in cache
    assert 3 not in cache
    assert "resid_post" in cache
    assert {name: array.shape for name, array in cache.items()}["value.2"] == (1, 3, 2, 2)


def test_an_empty_cache_says_so():
    cache = ActivationCache()
    assert len(cache) == 0
    with pytest.raises(MissingActivationError, match="the cache is empty"):
        cache["resid_post", 0]
    assert "0 tensors" in repr(cache)


def test_points_and_stack(cache):
    assert cache.points[0] == Point("resid_post", 0)
    assert cache.stack("resid_post").shape == (3, 1, 3, 4)
    np.testing.assert_array_equal(cache.stack("residual")[2], cache["resid_post", 2])
    with pytest.raises(MissingActivationError):
        cache.stack("resid_mid")


def test_hooks_that_share_a_point_are_told_apart():
    point = Point("resid_post", 0)
    stream = Stream(("first", point), ("second", point))
    cache = fill(stream, [outgoing(0, ramp(1, 2, 4)), outgoing(1, ramp(1, 1, 4, start=9), first_position=1)])
    assert list(cache) == ["first:resid_post.0", "second:resid_post.0"]
    assert cache["first"].shape == (1, 2, 4)
    assert cache["second:resid_post.0"].shape == (1, 1, 4)
    for key in ("resid_post.0", ("resid_post", 0)):
        with pytest.raises(MissingActivationError, match="captured by 2 hooks; name one of them: first, second"):
            cache[key]
    with pytest.raises(MissingActivationError, match="several hooks"):
        cache.stack("resid_post")
    assert cache.stack("second").shape == (1, 1, 1, 4)


def test_one_hook_of_several_layers():
    stream = Stream(*(("all", Point("resid_post", layer)) for layer in (2, 5)))
    cache = fill(stream, [outgoing(0, ramp(1, 1, 4)), outgoing(1, ramp(1, 1, 4, start=9))])
    assert cache["all", 5][0, 0, 0] == 9
    assert cache["all", -1][0, 0, 0] == 9
    assert cache.stack("all").shape == (2, 1, 1, 4)
    with pytest.raises(MissingActivationError, match="names 2 activations"):
        cache["all"]


def test_chunks_and_steps_are_joined_along_positions():
    stream = Stream(Point("resid_post", 0))
    whole = ramp(1, 7, 4)
    chunks = [outgoing(0, whole[:, :3]), outgoing(0, whole[:, 3:5], first_position=3)]
    cache = fill(stream, chunks, [outgoing(0, whole[:, 5:6], first_position=5)])
    np.testing.assert_array_equal(cache["resid_post", 0], whole[:, :6])
    np.testing.assert_array_equal(cache.positions(("resid_post", 0)), range(6))


def test_what_comes_after_a_look_is_joined_too():
    stream = Stream(Point("resid_post", 0), Point("attention_pattern", 0))
    state = StreamState()
    state.feed(stream.started())
    state.feed(stream.plan())
    for step in range(3):
        tensors = [
            outgoing(0, ramp(1, 1, 4, start=step), first_position=step),
            outgoing(1, ramp(1, 2, 1, step + 1, start=1), first_position=step),
        ]
        for frame in stream.frames(step, *tensors):
            state.feed(frame)
        assert state.cache["resid_post", 0].shape == (1, step + 1, 4)
        pattern = state.cache["pattern", 0]
        assert pattern.shape == (1, 2, step + 1, step + 1)
        assert not np.triu(pattern[0, 0], 1).any()
        assert np.tril(pattern[0, 0]).astype(bool).sum() == (step + 1) * (step + 2) // 2


def test_a_single_piece_is_a_view():
    stream = Stream(Point("resid_post", 0), Point("attention_pattern", 0))
    (frame,) = stream.frames(0, outgoing(0, ramp(1, 3, 4)), outgoing(1, ramp(1, 2, 3, 3)))
    payload = frame.payload
    frame.parts = [payload]
    reader = FrameReader(stream.plan().plan)
    cache = ActivationCache()
    cache.begin("tiny", [[1, 2, 3]])
    cache.expect(stream.specs, reader.digests)
    for piece in reader.read(frame):
        cache.add(piece)
    for key in ("resid_post.0", "attention_pattern.0"):
        assert np.shares_memory(cache[key], np.frombuffer(payload, np.uint8))
        assert not cache[key].flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_missing_keys_are_zero_in_patterns_and_the_least_number_in_scores(dtype):
    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    points = Point("attention_pattern", 0), Point("attention_scores", 0)
    stream = Stream(*points, dtype=dtype)
    prefill = [outgoing(index, ramp(1, 1, 2, 2, start=1, dtype=numpy_type)) for index in range(2)]
    step = [outgoing(i, ramp(1, 1, 1, 3, start=5, dtype=numpy_type), first_position=2) for i in range(2)]
    cache = fill(stream, prefill, step)
    pattern, scores = (cache[point] for point in points)
    assert pattern.dtype == scores.dtype == numpy_type
    np.testing.assert_array_equal(pattern[0, 0].astype("float32"), [[1, 2, 0], [3, 4, 0], [5, 6, 7]])
    least = ml_dtypes.finfo(numpy_type).min
    assert (scores[0, 0, :2, 2] == least).all()
    assert np.isfinite(scores.astype("float32")).all()


def test_keys_of_a_rotating_cache_come_to_their_positions():
    stream = Stream(Point("attention_pattern", 0))
    prefill = outgoing(0, ramp(1, 1, 2, 2, start=1))
    rotated = outgoing(0, ramp(1, 1, 1, 3, start=5), first_position=4, key_positions=[4, -1, 3])
    pattern = fill(stream, [prefill], [rotated])["pattern", 0]
    np.testing.assert_array_equal(pattern[0, 0], [[1, 2, 0, 0, 0], [3, 4, 0, 0, 0], [0, 0, 0, 7, 5]])
    alone = fill(Stream(Point("attention_pattern", 0)), [rotated])["pattern", 0]
    np.testing.assert_array_equal(alone[0, 0], [[0, 0, 0, 7, 5]])


def test_positions_that_a_selector_chose():
    stream = Stream(Point("resid_post", 0))
    chosen = outgoing(0, ramp(1, 2, 4), positions=[5, 2])
    cache = fill(stream, [chosen], [outgoing(0, ramp(1, 1, 4), first_position=9)])
    np.testing.assert_array_equal(cache.positions("resid_post.0"), [5, 2, 9])
    assert cache.positions("resid_post.0").dtype == np.int64
    assert cache["resid_post.0"].shape == (1, 3, 4)


def test_tensors_without_positions_get_an_axis_of_their_pieces():
    stream = Stream(Point("resid_post", 0))
    del stream.specs[0].axes[1]  # a mean over positions
    cache = fill(stream, [outgoing(0, ramp(1, 4))])
    assert cache["resid_post", 0].shape == (1, 4)
    stream = Stream(Point("resid_post", 0))
    del stream.specs[0].axes[1]
    cache = fill(stream, [outgoing(0, ramp(1, 4))], [outgoing(0, ramp(1, 4, start=4), first_position=3)])
    assert "(1, 2, 4)" in repr(cache)
    np.testing.assert_array_equal(cache["resid_post", 0], ramp(1, 2, 4))
    np.testing.assert_array_equal(cache.positions("resid_post.0"), [0, 3])


def test_rows_of_one_length_make_a_batch():
    stream = Stream(Point("resid_post", 0), prompts=[[1, 2], [3, 4]])
    cache = fill(stream, [outgoing(0, ramp(1, 2, 4, start=8 * row), row=row) for row in (1, 0)])
    np.testing.assert_array_equal(cache["resid_post", 0], ramp(2, 2, 4))
    np.testing.assert_array_equal(cache.row(1)["resid_post", 0], ramp(1, 2, 4, start=8))
    np.testing.assert_array_equal(cache.row(-1)["resid_post", 0], ramp(1, 2, 4, start=8))
    assert cache.row(1).token_ids == [[3, 4]]


def test_rows_of_different_lengths_are_taken_one_by_one():
    stream = Stream(Point("resid_post", 0), prompts=[[1, 2], [3, 4, 5]])
    tensors = [outgoing(0, ramp(1, 2, 4)), outgoing(0, ramp(1, 3, 4), row=1)]
    cache = fill(stream, tensors, finished=True)
    with pytest.raises(DataConversionError, match=r"different lengths \(2, 3\).*cache.row\(0\)"):
        cache["resid_post", 0]
    assert cache.row(0)["resid_post", 0].shape == (1, 2, 4)
    assert cache.row(1)["resid_post", 0].shape == (1, 3, 4)
    assert cache.row(1).manifest is cache.manifest
    assert "2 rows, (1, 2, 4), (1, 3, 4)" in repr(cache)
    with pytest.raises(IndexError, match="there are 2"):
        cache.row(2)


def test_a_row_that_a_hook_did_not_see_is_missing_there():
    stream = Stream(Point("resid_post", 0), prompts=[[1], [2]])
    cache = fill(stream, [outgoing(0, ramp(1, 1, 4), row=1)])
    assert len(cache.row(0)) == 0
    assert cache.row(1)["resid_post", 0].shape == (1, 1, 4)


def test_checksums_are_those_of_the_manifest():
    point = Point("resid_post", 0)
    stream = Stream(("h", point), ("h", Point("attn_out", 1, True)), ("g", Point("logits")), prompts=[[1], [2]])
    tensors = [outgoing(index, ramp(1, 1, 4, start=row), row=row) for index in range(3) for row in range(2)]
    cache = fill(stream, tensors, finished=True)
    checksums = cache.checksums()
    assert set(checksums) == {
        ("h", layer, is_input, row) for layer, is_input in ((0, False), (1, True)) for row in range(2)
    } | {("g", None, False, row) for row in range(2)}
    assert cache.manifest is not None
    assert {entry.xxh3_64 for entry in cache.manifest.entries} == set(checksums.values())
    assert cache.row(1).checksums()["h", 0, False, 0] == checksums["h", 0, False, 1]


def test_checksums_of_a_hook_with_several_components_of_a_layer_are_told_apart():
    stream = Stream(("h", Point("resid_pre", 0)), ("h", Point("resid_post", 0)))
    cache = fill(stream, [outgoing(0, ramp(1, 1, 4)), outgoing(1, ramp(1, 1, 4))])
    assert set(cache.checksums()) == {("h/resid_pre", 0, False, 0), ("h/resid_post", 0, False, 0)}


def test_the_representation_is_a_table():
    stream = Stream(*(Point("resid_post", layer) for layer in (0, 1, 2, 5)), ("mine", Point("embedding")))
    cache = fill(stream, [outgoing(index, ramp(1, 3, 4)) for index in range(5)])
    text = repr(cache)
    assert "tiny: 5 tensors" in text
    assert re.search(r"resid_post +0-2, 5 +\(1, 3, 4\) +float32", text)
    assert re.search(r"embedding +mine +\(1, 3, 4\)", text)
    assert len(text.splitlines()) <= 6
    bundle = cache._repr_mimebundle_()
    assert bundle["text/plain"] == text
    assert "resid_post" in bundle["text/html"]
    assert cache.__rich__().row_count == 2


def test_showing_a_cache_does_not_join_it():
    stream = Stream(Point("attention_pattern", 0))
    cache = fill(stream, [outgoing(0, ramp(1, 2, 3, 3))], [outgoing(0, ramp(1, 2, 1, 4), first_position=3)])
    assert "(1, 2, 4, 4)" in repr(cache)
    assert cache.nbytes == (18 + 8) * 4
    assert cache["pattern", 0].shape == (1, 2, 4, 4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "bool"])
def test_a_file_gives_the_cache_back(tmp_path, dtype):
    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    stream = Stream(Point("resid_post", 0), Point("attn_out", 1, True), ("mine", Point("logits")), dtype=dtype)
    tensors = [outgoing(index, ramp(1, 2, 4, start=index, dtype=numpy_type), first_position=3) for index in range(3)]
    cache = fill(stream, tensors, finished=True)
    path = tmp_path / "a.safetensors"
    cache.save(path)
    loaded = ActivationCache.load(str(path))
    assert list(loaded) == list(cache) == ["resid_post.0", "attn_out.1.input", "logits"]
    for name in cache:
        assert loaded[name].dtype == numpy_type
        np.testing.assert_array_equal(loaded[name], cache[name])
        np.testing.assert_array_equal(loaded.positions(name), [3, 4])
    assert loaded.checksums() == cache.checksums()
    assert (loaded.model_id, loaded.token_ids) == ("tiny", [[1, 2, 3]])
    assert loaded["mine"].shape == (1, 2, 4)
    assert repr(loaded) == repr(cache)


def test_other_tools_read_the_file(tmp_path, cache):
    cache.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert set(file.keys()) == set(cache)
        np.testing.assert_array_equal(file.get_tensor("resid_post.1"), cache["resid_post", 1])
        description = json.loads(file.metadata()["neuroscope"])
    assert description["model_id"] == "tiny"
    assert description["token_ids"] == [[1, 2, 3]]
    assert description["tensors"]["resid_post.1"]["positions"] == [{"start": 0, "stop": 3}]


def test_rows_of_different_lengths_are_saved_one_by_one(tmp_path):
    stream = Stream(Point("resid_post", 0), Point("logits"), prompts=[[1, 2], [3, 4, 5]])
    tensors = [outgoing(index, ramp(1, 2 + row, 4), row=row) for index in range(2) for row in range(2)]
    cache = fill(stream, tensors, finished=True)
    cache.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert set(file.keys()) == {"resid_post.0.0", "resid_post.0.1", "logits.0", "logits.1"}
    loaded = ActivationCache.load(tmp_path / "a.safetensors")
    assert loaded.row(1)["resid_post", 0].shape == (1, 3, 4)
    assert loaded.checksums() == cache.checksums()
    cache.row(1).save(tmp_path / "b.safetensors")
    one = ActivationCache.load(tmp_path / "b.safetensors")
    assert one["resid_post", 0].shape == (1, 3, 4)
    assert one.token_ids == [[3, 4, 5]]


def test_tensors_without_positions_and_chosen_positions_survive_a_file(tmp_path):
    stream = Stream(Point("resid_post", 0), Point("attn_out", 0))
    del stream.specs[0].axes[1]
    cache = fill(stream, [outgoing(0, ramp(1, 4)), outgoing(1, ramp(1, 2, 4), positions=[5, 2])])
    cache.save(tmp_path / "a.safetensors")
    loaded = ActivationCache.load(tmp_path / "a.safetensors")
    assert loaded["resid_post", 0].shape == (1, 4)
    np.testing.assert_array_equal(loaded.positions("attn_out.0"), [5, 2])


def test_a_changed_file_is_noticed(tmp_path, cache):
    path = tmp_path / "a.safetensors"
    cache.save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="were changed"):
        ActivationCache.load(path)


@pytest.mark.parametrize("content", [b"", b"not a file of tensors at all", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DataConversionError, match=r"was not written by ActivationCache.save"):
        ActivationCache.load(tmp_path / "a.safetensors")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        ActivationCache.load(tmp_path / "none.safetensors")
