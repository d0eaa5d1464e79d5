"""neuroscope.wire.frames: what is packed is read again; what is lost or changed on the way is noticed."""

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.errors import ChecksumError, StreamingError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.wire import codec
from neuroscope.wire.codec import ALIGNMENT_BYTES, Frame
from neuroscope.wire.frames import PACKED_BYTES, SLICE_BYTES, FrameReader
from tests.support.streams import Stream, outgoing

DECODE = codec.decoder(pb.GenerateResponse)


def over_the_wire(framed: Frame) -> Frame:
    received = DECODE(codec.encode(framed))
    assert isinstance(received, Frame)
    return received


def reader(stream: Stream) -> FrameReader:
    return FrameReader(stream.plan().plan)


def random(*shape: int, dtype="float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int32", "uint8", "bool"])
def test_small_tensors_travel_together_and_come_back_as_they_were(dtype):
    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    stream = Stream(*(Point("resid_post", layer) for layer in range(5)), dtype=dtype)
    arrays = [(random(1, 3, 7) * 4).astype(numpy_type) for _ in range(5)]
    frames = stream.frames(2, *(outgoing(i, array, first_position=4) for i, array in enumerate(arrays)))
    assert len(frames) == 1
    pieces = reader(stream).read(over_the_wire(frames[0]))
    assert [piece.spec.hook_id for piece in pieces] == [f"resid_post.{layer}" for layer in range(5)]
    for piece, array in zip(pieces, arrays, strict=True):
        assert piece.array.dtype == array.dtype
        np.testing.assert_array_equal(piece.array, array)
        assert (piece.step, piece.row, piece.first_position) == (2, 0, 4)
        assert piece.checksum == xxhash.xxh3_64_intdigest(array.tobytes())
        assert piece.positions == piece.key_positions == ()


def test_packed_tensors_are_aligned_read_only_views_of_the_message():
    stream = Stream(Point("resid_post", 0), Point("resid_post", 1))
    (frame,) = stream.frames(0, outgoing(0, random(1, 1, 3)), outgoing(1, random(1, 1, 5)))
    received = over_the_wire(frame)
    for piece in reader(stream).read(received):
        assert piece.array.ctypes.data % ALIGNMENT_BYTES == 0
        assert not piece.array.flags.writeable
        assert np.shares_memory(piece.array, np.frombuffer(received.payload, np.uint8))


def test_a_tensor_above_the_limit_travels_alone_in_slices():
    stream = Stream(Point("resid_post", 0), Point("resid_post", 1), Point("resid_post", 2))
    small, large = random(1, 1, 8), random(1, 1400, 512)
    assert large.nbytes > 2 * SLICE_BYTES
    frames = stream.frames(0, outgoing(0, small), outgoing(1, large), outgoing(2, small))
    kinds = [type(framed.header).__name__ for framed in frames]
    assert kinds == ["TensorFrame"] * 3 + ["StepFrame"]
    assert max(framed.nbytes for framed in frames) <= SLICE_BYTES
    read = reader(stream)
    pieces = [piece for framed in frames for piece in read.read(over_the_wire(framed))]
    np.testing.assert_array_equal({piece.spec.plan_index: piece.array for piece in pieces}[1], large)
    assert {piece.spec.plan_index for piece in pieces} == {0, 1, 2}
    (joined,) = [piece for piece in pieces if piece.is_joined]
    assert joined.spec.plan_index == 1
    assert joined.array.flags.writeable


def test_frames_of_many_tensors_stay_near_the_limit():
    stream = Stream(*(Point("resid_post", layer) for layer in range(20)))
    arrays = [random(1, 100, 512) for _ in range(20)]
    frames = stream.frames(0, *(outgoing(i, array) for i, array in enumerate(arrays)))
    assert max(framed.nbytes for framed in frames) <= PACKED_BYTES
    assert [framed.header.sequence for framed in frames] == list(range(len(frames)))
    assert stream.packer.frame_count == len(frames) > 1


def test_positions_and_rows_come_back():
    stream = Stream(Point("attention_pattern", 0), prompts=[[1], [2]])
    tensors = [
        outgoing(0, random(1, 2, 2, 3), row=1, positions=[5, 2], key_positions=[4, -1, 3]),
        outgoing(0, random(1, 2, 2, 3), row=0, first_position=9),
        outgoing(0, random(1, 2, 2, 3), row=1, first_position=6),
    ]
    (frame,) = stream.frames(0, *tensors)
    first, second, third = reader(stream).read(over_the_wire(frame))
    assert (first.row, first.positions, first.key_positions) == (1, (5, 2), (4, -1, 3))
    assert (second.row, second.positions, second.first_position) == (0, (), 9)
    assert (third.row, third.positions, third.key_positions, third.first_position) == (1, (), (), 6)


def test_digests_of_both_ends_agree():
    stream = Stream(Point("resid_post", 0), Point("logits"), prompts=[[1], [2]])
    read = reader(stream)
    for step in range(3):
        tensors = [outgoing(i, random(1, 2, 4) + step, row=row) for row in range(2) for i in range(2)]
        for framed in stream.frames(step, *tensors):
            read.read(over_the_wire(framed))
    assert set(read.digests) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for key, digest in stream.packer.digests.items():
        received = read.digests[key]
        assert (received.piece_count, received.position_count, received.length_bytes) == (3, 6, 3 * 32)
        assert received.checksum == digest.checksum


def test_the_digest_is_the_hash_of_the_pieces_checksums():
    stream = Stream(Point("resid_post", 0))
    arrays = [random(1, 1, 4), random(1, 1, 4) + 1]
    for step, array in enumerate(arrays):
        stream.frames(step, outgoing(0, array))
    sums = b"".join(xxhash.xxh3_64_intdigest(array.tobytes()).to_bytes(8, "little") for array in arrays)
    assert stream.packer.digests[0, 0].checksum == xxhash.xxh3_64_intdigest(sums)


def test_a_shape_that_changes_from_step_to_step_is_sent_as_it_is():
    stream = Stream(Point("attention_scores", 0))
    read = reader(stream)
    for step, keys in enumerate([3, 4, 5, 5, 6]):
        (frame,) = stream.frames(step, outgoing(0, random(1, 2, 1, keys), first_position=keys))
        (piece,) = read.read(over_the_wire(frame))
        assert piece.array.shape == (1, 2, 1, keys)
        assert piece.first_position == keys


def test_a_missing_frame_is_an_error():
    stream = Stream(Point("resid_post", 0))
    frames = [stream.frames(step, outgoing(0, random(1, 1, 4)))[0] for step in range(3)]
    read = reader(stream)
    read.read(frames[0])
    with pytest.raises(StreamingError, match="received frame 2 where frame 1 was expected"):
        read.read(frames[2])


def test_a_missing_slice_is_an_error():
    stream = Stream(Point("resid_post", 0))
    frames = stream.frames(0, outgoing(0, random(1, 1400, 512)))
    frames[2].header.sequence = 1
    read = reader(stream)
    read.read(frames[0])
    with pytest.raises(StreamingError, match="not the next slice"):
        read.read(frames[2])


def test_slices_that_begin_in_the_middle_are_an_error():
    stream = Stream(Point("resid_post", 0))
    frames = stream.frames(0, outgoing(0, random(1, 1400, 512)))
    frames[1].header.sequence = 0
    with pytest.raises(StreamingError, match="not the next slice"):
        reader(stream).read(frames[1])


def test_slices_beyond_the_announced_length_are_an_error():
    stream = Stream(Point("resid_post", 0))
    frames = stream.frames(0, outgoing(0, random(1, 1400, 512)))
    frame = frames[0].header
    assert isinstance(frame, tensor_pb2.TensorFrame)
    frame.ref.length_bytes = 100
    with pytest.raises(StreamingError, match="not the next slice"):
        reader(stream).read(frames[0])


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), large=st.booleans())
def test_a_changed_byte_is_noticed(place, large):
    stream = Stream(Point("resid_post", 0))
    frames = stream.frames(3, outgoing(0, random(1, 300, 512) if large else random(1, 3, 8)))
    payload = bytearray(b"".join(frames[0].parts))
    payload[int(place * len(payload))] ^= 0x10
    frames[0].parts = [memoryview(bytes(payload))]
    read = reader(stream)
    with pytest.raises(ChecksumError, match=r"'resid_post.0' of step 3, row 0 was corrupted"):
        _ = [read.read(framed) for framed in frames]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_index": 7}, "does not fit the plan"),
        ({"shape": [1, 3, 9]}, "does not fit the plan"),
        ({"shape": [1, 3, 7]}, "24 float32|are no float32|does not fit"),
        ({"shape": [1, -3, 8]}, "does not fit the plan"),
    ],
)
def test_a_tensor_that_does_not_fit_the_plan_is_an_error(change, message):
    stream = Stream(Point("resid_post", 0))
    (frame,) = stream.frames(0, outgoing(0, random(1, 3, 8)))
    assert isinstance(frame.header, tensor_pb2.StepFrame)
    ref = frame.header.refs[0]
    if "shape" in change:
        ref.shape[:] = change["shape"]
    else:
        ref.plan_index = change["plan_index"]
    with pytest.raises(StreamingError, match=message):
        reader(stream).read(frame)


def test_a_payload_that_is_too_short_is_noticed():
    stream = Stream(Point("resid_post", 0))
    (frame,) = stream.frames(0, outgoing(0, random(1, 3, 8)))
    frame.parts = [memoryview(b"".join(frame.parts))[:-4]]
    with pytest.raises(ChecksumError):
        reader(stream).read(frame)


def test_an_empty_tensor_is_a_tensor():
    stream = Stream(Point("resid_post", 0))
    (frame,) = stream.frames(0, outgoing(0, np.empty((1, 0, 8), np.float32)))
    (piece,) = reader(stream).read(over_the_wire(frame))
    assert piece.array.shape == (1, 0, 8)


def test_a_step_without_tensors_has_no_frames():
    assert Stream(Point("resid_post", 0)).frames(0) == []
