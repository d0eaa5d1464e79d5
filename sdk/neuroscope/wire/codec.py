"""Frames in and out of their serialised messages: one copy of the payload when writing, none when reading.

protobuf copies a `bytes` field three times on its way out and twice on its way in. Here a frame is a header message
without its payload, and the payload as buffers; the bytes are exactly those that protobuf itself would write.
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
    """A frame whose payload has not been copied into it.

    `frame.data` is empty; the payload is the concatenation of `parts`, contiguous byte views. `wire` is the serialised
    message that wraps the frame, where somebody has it already: it is then sent as it is. `borrowed` parts lie in
    memory that the sender wants back once no view of them is left.
    """

    header: FrameHeader
    parts: Sequence[memoryview]
    encoded: bytes | None = None
    borrowed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return sum(part.nbytes for part in self.parts)

    @property
    def payload(self) -> memoryview:
        """The payload as one view; only of a frame that has one part, as every decoded one has."""
        if len(self.parts) == 1:
            return self.parts[0]
        return memoryview(b"".join(self.parts))

    def owned(self) -> Frame:
        """The same in memory that lasts as long as somebody looks at it: a copy, if it was borrowed."""
        return Frame(self.header, (memoryview(bytearray(self.payload)),)) if self.borrowed else self


Event: TypeAlias = "Message | Frame"


def encode(event: Event) -> bytes:
    """The serialised message of an event; a frame comes out wrapped in its oneof field."""
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
    """A function from the serialised bytes of a message, which may wrap a frame, to its event.

    The function raises `google.protobuf.message.DecodeError` where protobuf would.
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
    """The frame, if the bytes are one frame field whose payload comes last; else None: protobuf reads the message."""
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
    """A parsed message, its frame taken out if it carries one."""
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
    """Bytes of a field's value and where the value begins."""
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
