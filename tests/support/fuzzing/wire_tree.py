"""A serialised message as a tree of the fields that are on the wire, to be changed in ways that protobuf would refuse.

tree = WireTree.parse(request.SerializeToString(), request.DESCRIPTOR)
tree.fields[0].value = b"\xff"                  text that is none
tree.fields.append(Field(99, VARINT, 7))        a field that the contract does not have
tree.to_bytes()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
_FIXED64 = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64}
_FIXED32 = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32}
_DELIMITED = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}

Value: TypeAlias = "int | bytes | WireTree"
"""Of a varint, of bytes of any other wire type, of a message."""


@dataclass(slots=True)
class Field:
    """One field as it is on the wire; a repeated one is several of these.

    Attributes:
        number: its number.
        wire_type: VARINT, FIXED64, LENGTH_DELIMITED or FIXED32.
        value: what it holds.
        descriptor: the contract's field; None where the contract has none of that number.
    """

    number: int
    wire_type: int
    value: Value
    descriptor: FieldDescriptor | None = None

    def to_bytes(self) -> bytes:
        """Tag and value."""
        tag = varint(self.number << 3 | self.wire_type)
        if isinstance(self.value, int):
            return tag + varint(self.value)
        raw = self.value.to_bytes() if isinstance(self.value, WireTree) else self.value
        return tag + varint(len(raw)) + raw if self.wire_type == LENGTH_DELIMITED else tag + raw

    def copy(self) -> Field:
        """The same field, to be changed by itself."""
        value = self.value.copy() if isinstance(self.value, WireTree) else self.value
        return Field(self.number, self.wire_type, value, self.descriptor)


@dataclass(slots=True)
class WireTree:
    """A message on the wire: its fields in their order."""

    descriptor: Descriptor
    fields: list[Field] = field(default_factory=list[Field])

    @classmethod
    def parse(cls, raw: bytes, descriptor: Descriptor) -> WireTree:
        """What protobuf wrote, packed numbers one by one."""
        tree = cls(descriptor)
        index = 0
        while index < len(raw):
            tag, index = read_varint(raw, index)
            known = descriptor.fields_by_number[tag >> 3]
            value, index = _read_value(raw, index, tag & 7)
            if isinstance(value, bytes) and known.message_type is not None:
                tree.fields.append(Field(known.number, tag & 7, cls.parse(value, known.message_type), known))
            elif isinstance(value, bytes) and tag & 7 == LENGTH_DELIMITED and known.type not in _DELIMITED:
                tree.fields += _unpacked(value, known)
            else:
                tree.fields.append(Field(known.number, tag & 7, value, known))
        return tree

    def to_bytes(self) -> bytes:
        """The message; what `parse` read means the same."""
        return b"".join(each.to_bytes() for each in self.fields)

    def copy(self) -> WireTree:
        """The same message, to be changed by itself."""
        return WireTree(self.descriptor, [each.copy() for each in self.fields])

    def places(self) -> Iterator[tuple[WireTree, Field]]:
        """Every field of the tree, with the message that it is in."""
        for each in self.fields:
            yield self, each
            if isinstance(each.value, WireTree):
                yield from each.value.places()

    def trees(self) -> Iterator[WireTree]:
        """Every message of the tree, itself first."""
        yield self
        for each in self.fields:
            if isinstance(each.value, WireTree):
                yield from each.value.trees()


def wire_type_of(descriptor: FieldDescriptor) -> int:
    """How one element of a field is written."""
    if descriptor.type in _DELIMITED:
        return LENGTH_DELIMITED
    return FIXED64 if descriptor.type in _FIXED64 else FIXED32 if descriptor.type in _FIXED32 else VARINT


def varint(number: int) -> bytes:
    """A number as protobuf writes it; negative ones in ten bytes."""
    number %= 2**64
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def read_varint(raw: bytes, index: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while True:
        byte = raw[index]
        index += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, index
        shift += 7


def _read_value(raw: bytes, index: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == VARINT:
        return read_varint(raw, index)
    if wire_type == LENGTH_DELIMITED:
        length, index = read_varint(raw, index)
    else:
        length = 8 if wire_type == FIXED64 else 4
    return raw[index : index + length], index + length


def _unpacked(raw: bytes, descriptor: FieldDescriptor) -> Iterator[Field]:
    index, wire_type = 0, wire_type_of(descriptor)
    while index < len(raw):
        value, index = _read_value(raw, index, wire_type)
        yield Field(descriptor.number, wire_type, value, descriptor)
