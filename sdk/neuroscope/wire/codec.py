"""Serialises and parses messages with frames: one copy of the payload when writing, none when reading.

protobuf copies a `bytes` field three times when it writes a message and twice when it parses one. Here the payload
stays outside of the message, as buffers. The bytes on the wire are exactly those that protobuf would write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import Message

from neuroscope.v1 import tensor_pb2

FrameHeader: TypeAlias = "tensor_pb2.StepFrame | tensor_pb2.TensorFrame"

ALIGNMENT_BYTES = 16
STEP_FRAME_FIELD = 14
TENSOR_FRAME_FIELD = 15
_DATA_FIELD = 15
_PADDING_FIELD = 14
_LENGTH_DELIMITED = 2
_DATA_TAG = _DATA_FIELD << 3 | _LENGTH_DELIMITED
_REFS_TAG = tensor_pb2.StepFrame.REFS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


@dataclass(slots=True)
class Frame:
    """A StepFrame or TensorFrame, and its payload outside of the message."""

    header: FrameHeader
    """The message; its field `data` is empty."""
    parts: Sequence[memoryview]
    """Contiguous byte views; the payload is their concatenation."""
    encoded: bytes | None = None
    """The serialised message that wraps the frame, if it is known; `encode` returns it unchanged."""
    borrowed: bool = False
    """Whether the parts lie in shared memory, which the sender reuses once no view of them is left."""

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return sum(part.nbytes for part in self.parts)

    @property
    def payload(self) -> memoryview:
        """The payload as one view, copied if there are several parts. Parsed frames have one."""
        if len(self.parts) == 1:
            return self.parts[0]
        return memoryview(b"".join(self.parts))

    def owned(self) -> Frame:
        """The frame itself, or a copy in this process's own memory if it is borrowed."""
        return Frame(self.header, (memoryview(bytearray(self.payload)),)) if self.borrowed else self


Event: TypeAlias = "Message | Frame"


def encode(event: Event) -> bytes:
    """Serialises a message, or a frame inside the oneof field of its response message."""
    if not isinstance(event, Frame):
        return event.SerializeToString()
    if event.encoded is not None:
        return event.encoded
    number = STEP_FRAME_FIELD if isinstance(event.header, tensor_pb2.StepFrame) else TENSOR_FRAME_FIELD
    head = event.header.SerializeToString()
    length = event.nbytes
    tail = _tag(_DATA_FIELD) + _varint(length) if length else b""
    padding = b""
    prefix = _prefix(number, head, padding, tail, length)
    if length:
        size = 0
        while (len(prefix) + len(head) + len(padding) + len(tail)) % ALIGNMENT_BYTES:
            size += 1
            padding = _tag(_PADDING_FIELD) + _varint(size) + bytes(size)
            prefix = _prefix(number, head, padding, tail, length)
    return b"".join((prefix, head, padding, tail, *event.parts))


def decoder(wrapper: type[Message]) -> Callable[[bytes], Event]:
    """Returns a function that parses messages of a type, frames included.

    Like protobuf it raises `google.protobuf.message.DecodeError` for malformed bytes.
    """
    names: list[str] = []
    types: dict[int, type[FrameHeader]] = {}
    for field in wrapper.DESCRIPTOR.fields:
        for frame_type in (tensor_pb2.StepFrame, tensor_pb2.TensorFrame):
            if field.message_type is frame_type.DESCRIPTOR:
                names.append(field.name)
                types[field.number] = frame_type
    if not names:
        return wrapper.FromString

    def decode(raw: bytes) -> Event:
        return _decode_frame(raw, types) or _framed(wrapper.FromString(raw), names)

    return decode


def _decode_frame(raw: bytes, types: Mapping[int, type[FrameHeader]]) -> Frame | None:
    """The frame, if the bytes are one frame field with the payload at its end. None: leave the bytes to protobuf."""
    try:
        tag, start = _read_varint(raw, 0)
        frame_type = types.get(tag >> 3)
        if frame_type is None or tag & 7 != _LENGTH_DELIMITED:
            return None
        length, start = _read_varint(raw, start)
        end = len(raw)
        if start + length != end:
            return None
        index = start
        while index < end:
            if raw[index] == _REFS_TAG and raw[index + 1] < 0x80:  # nearly every field of a frame of small tensors
                index += 2 + raw[index + 1]
                continue
            field_start = index
            tag, index = _read_varint(raw, index)
            size, index = _field_size(raw, index, tag & 7)
            if tag == _DATA_TAG:
                if index + size != end:
                    return None
                header = frame_type.FromString(raw[start:field_start])
                header.ClearField("padding")
                return Frame(header, (memoryview(raw)[index:],))
            index += size
    except (IndexError, ValueError):
        return None
    return None


def _framed(message: Message, names: Sequence[str]) -> Event:
    """The frame of a message that protobuf parsed; the message itself if it has none."""
    for name in names:
        if message.HasField(name):
            header: FrameHeader = getattr(message, name)
            data = header.data
            header.ClearField("data")
            header.ClearField("padding")
            return Frame(header, (memoryview(data),))
    return message


def _prefix(number: int, head: bytes, padding: bytes, tail: bytes, length: int) -> bytes:
    return _tag(number) + _varint(len(head) + len(padding) + len(tail) + length)


def _tag(number: int) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(raw: bytes, index: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
        shift += 7


def _field_size(raw: bytes, index: int, wire_type: int) -> tuple[int, int]:
    """Size of a field's value in bytes, and the index of its first byte."""
    match wire_type:
        case 0:
            _, end = _read_varint(raw, index)
            return end - index, index
        case 1:
            return 8, index
        case 2:
            return _read_varint(raw, index)
        case 5:
            return 4, index
        case _:
            raise ValueError(f"wire type {wire_type} has no length")
