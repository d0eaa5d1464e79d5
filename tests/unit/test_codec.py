"""neuroscope.wire.codec: the bytes are protobuf's own, the payload is aligned, and what others write is read too."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire import codec
from neuroscope.wire.codec import ALIGNMENT_BYTES, Frame

WRAPPERS = [pb.GenerateResponse, pb.CaptureResponse, pb.PutTensorRequest]
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

refs = st.builds(
    tensor_pb2.TensorRef,
    plan_index=U32,
    row=U32,
    shape=st.lists(st.integers(-1, 2**40), max_size=4),
    first_position=U32,
    offset_bytes=U64,
    length_bytes=U64,
    xxh3_64=U64,
    positions=st.lists(U32, max_size=3),
    key_positions=st.lists(st.integers(-1, 2**31 - 1), max_size=3),
)
step_frames = st.builds(tensor_pb2.StepFrame, sequence=U64, step=U32, refs=st.lists(refs, max_size=5))
tensor_frames = st.builds(
    tensor_pb2.TensorFrame,
    sequence=U64,
    step=U32,
    ref=st.none() | refs,
    offset_bytes=U64,
    last=st.booleans(),
    xxh3_64=U64,
    region=st.none() | st.builds(tensor_pb2.SharedRegion, region_id=st.text(max_size=5), offset_bytes=U64),
)
frames = st.one_of(step_frames, tensor_frames)
parts = st.lists(st.binary(max_size=300), max_size=5)


def wrapped(wrapper, frame, data: bytes, padding: bytes):
    """What protobuf itself makes of the same event."""
    name = "step_frame" if isinstance(frame, tensor_pb2.StepFrame) else "tensor_frame"
    message = wrapper()
    target = getattr(message, name)
    target.CopyFrom(frame)
    target.SetInParent()
    target.data = data
    target.padding = padding
    return message


def padding_of(wrapper, raw: bytes) -> bytes:
    message = wrapper.FromString(raw)
    name = "step_frame" if "step_frame" in message.DESCRIPTOR.fields_by_name and message.HasField("step_frame") else ""
    return getattr(message, name or "tensor_frame").padding


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(data=st.data())
def test_bytes_are_those_that_protobuf_writes(wrapper, data):
    frame = data.draw(tensor_frames if wrapper is pb.PutTensorRequest else frames)
    payload = data.draw(parts)
    raw = codec.encode(Frame(frame, [memoryview(part) for part in payload]))
    expected = wrapped(wrapper, frame, b"".join(payload), padding_of(wrapper, raw))
    assert raw == expected.SerializeToString()


@given(frame=frames, payload=parts)
def test_payload_is_aligned_and_comes_last(frame, payload):
    data = b"".join(payload)
    raw = codec.encode(Frame(frame, [memoryview(part) for part in payload]))
    if data:
        assert (len(raw) - len(data)) % ALIGNMENT_BYTES == 0
        assert raw.endswith(data)
        padding = padding_of(pb.GenerateResponse, raw)
        assert len(padding) < 2 * ALIGNMENT_BYTES
        assert not any(padding)


@settings(max_examples=20)
@given(head=st.integers(0, 40), size=st.sampled_from([1, 127, 128, 16_383, 16_384, 2**20]))
def test_padding_settles_at_every_length_of_the_length(head, size):
    frame = tensor_pb2.TensorFrame(region=tensor_pb2.SharedRegion(region_id="x" * head))
    raw = codec.encode(Frame(frame, [memoryview(bytes(size))]))
    assert (len(raw) - size) % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(data=st.data())
def test_each_side_reads_the_other(wrapper, data):
    frame = data.draw(tensor_frames if wrapper is pb.PutTensorRequest else frames)
    payload = data.draw(st.binary(max_size=300))
    padding = data.draw(st.binary(max_size=20))
    ours = codec.decoder(wrapper)(codec.encode(Frame(frame, [memoryview(payload)])))
    theirs = codec.decoder(wrapper)(wrapped(wrapper, frame, payload, padding).SerializeToString())
    for read in (ours, theirs):
        assert isinstance(read, Frame)
        assert read.header == frame
        assert bytes(read.payload) == payload
        assert read.nbytes == len(payload)


def test_payload_is_a_view_of_the_message():
    raw = codec.encode(Frame(tensor_pb2.StepFrame(step=1), [memoryview(b"abcd" * 8)]))
    framed = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(framed, Frame)
    assert framed.payload.obj is raw
    address = np.frombuffer(framed.payload, np.uint8).ctypes.data
    assert address % ALIGNMENT_BYTES == 0


def test_frames_of_many_small_tensors_are_read_without_protobuf_copying_the_payload(monkeypatch):
    frame = tensor_pb2.StepFrame(refs=[tensor_pb2.TensorRef(plan_index=i, shape=[1, i]) for i in range(300)])
    raw = codec.encode(Frame(frame, [memoryview(bytes(5000))]))
    monkeypatch.setattr(codec, "_framed", lambda *_: pytest.fail("took the slow path"))
    framed = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(framed, Frame)
    assert framed.header == frame


def varint(value: int, length: int = 1) -> bytes:
    """A varint, with superfluous bytes that protobuf allows."""
    out = [value >> 7 * index & 0x7F | 0x80 for index in range(length)]
    out[-1] &= 0x7F
    return bytes(out)


FRAME = tensor_pb2.StepFrame(sequence=3, step=2, refs=[tensor_pb2.TensorRef(plan_index=1, xxh3_64=5)])
HEAD = FRAME.SerializeToString()
DATA = b"\x7a\x04abcd"


def field(number: int, content: bytes, length: int = 1) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content), length) + content


@pytest.mark.parametrize(
    "raw",
    [
        field(14, DATA + HEAD),  # the payload first
        field(14, HEAD + DATA, length=3),  # a longer length than needed
        field(14, HEAD + b"\xfa\x00" + DATA[1:]),  # a longer tag than needed
        field(14, HEAD + b"\x7a\x02xx" + DATA),  # the payload twice: the last one counts
        field(14, HEAD) + field(14, DATA),  # the frame in two parts, which protobuf merges
        field(14, HEAD + DATA + b"\xa0\x06\x01"),  # an unknown field behind the payload
        field(14, HEAD + b"\xa3\x06\xa4\x06" + DATA),  # an unknown group before it
        field(14, HEAD + b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4) + DATA),  # unknown fixed-width fields
        b"\x12\x00" + field(14, HEAD + DATA),  # another event of the oneof first, which the frame replaces
    ],
)
def test_unusual_encodings_are_read_as_protobuf_reads_them(raw):
    expected = pb.GenerateResponse.FromString(raw).step_frame
    framed = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(framed, Frame)
    assert bytes(framed.payload) == expected.data == b"abcd"
    assert framed.header.sequence == 3
    assert isinstance(framed.header, tensor_pb2.StepFrame)
    assert [ref.plan_index for ref in framed.header.refs] == [1]


def test_a_frame_that_another_event_replaces_is_not_read():
    raw = field(14, HEAD + DATA) + field(3, b"\x28\x07"[:0])
    event = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(event, pb.GenerateResponse)
    assert event.HasField("token")


def test_field_14_of_a_message_without_a_step_frame_is_left_alone():
    raw = field(14, HEAD + DATA)
    event = codec.decoder(pb.PutTensorRequest)(raw)
    assert isinstance(event, pb.PutTensorRequest)
    assert event.SerializeToString() == raw  # an unknown field


@given(raw=st.binary(max_size=60))
def test_arbitrary_bytes_are_read_or_refused_as_protobuf_does(raw):
    raw = bytes([114]) + bytes([len(raw)]) + raw
    try:
        expected = pb.GenerateResponse.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            codec.decoder(pb.GenerateResponse)(raw)
        return
    event = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(event, Frame)
    assert bytes(event.payload) == expected.step_frame.data
    expected.step_frame.ClearField("data")
    expected.step_frame.ClearField("padding")
    assert event.header == expected.step_frame


@given(cut=st.integers(1, len(HEAD + DATA) + 1))
def test_truncated_bytes_are_refused(cut):
    raw = field(14, HEAD + DATA)
    with pytest.raises(DecodeError):
        codec.decoder(pb.GenerateResponse)(raw[: len(raw) - cut] or b"\x72")


def test_messages_without_a_frame_pass_unchanged():
    message = pb.GenerateResponse(token=pb.TokenEvent(row=1, step=2, text="é"))
    raw = codec.encode(message)
    assert raw == message.SerializeToString()
    assert codec.decoder(pb.GenerateResponse)(raw) == message
    assert codec.decoder(pb.ListModelsResponse) == pb.ListModelsResponse.FromString


def test_a_frame_without_payload_is_a_frame():
    raw = codec.encode(Frame(tensor_pb2.StepFrame(sequence=1), []))
    assert raw == pb.GenerateResponse(step_frame=tensor_pb2.StepFrame(sequence=1)).SerializeToString()
    framed = codec.decoder(pb.GenerateResponse)(raw)
    assert isinstance(framed, Frame)
    assert framed.nbytes == 0


def test_payload_of_several_parts_is_joined():
    framed = Frame(tensor_pb2.StepFrame(), [memoryview(b"ab"), memoryview(b"cd")])
    assert bytes(framed.payload) == b"abcd"
    assert framed.nbytes == 4
