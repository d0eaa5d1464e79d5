"""Ways to spoil a request: field by field, guided by its descriptor, or byte by byte.

Mutator(random.Random(7)).by_field(raw, pb.GenerateRequest.DESCRIPTOR)
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.support.fuzzing.wire_tree import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    Field,
    WireTree,
    varint,
    wire_type_of,
)

_INTEGERS = (0, 1, 2, 7, 100, 255, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, -1, -2, -(2**31))
_DOUBLES = (float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1e-30, -1.0, 2.0, 1e9, 1e38, 1e308, -1e308)
_TEXTS = (
    "",
    "\0",
    "a\0b",
    " ",
    "\n",
    "..",
    "/",
    "~",
    "~nobody",
    "/dev/null",
    "../../../../etc/passwd",
    "%s%n{0}{}",
    "'\"`$(x)",
    "\u202e\u200b\ufeff",
    "e" + "\u0301" * 300,
    "\U0001f9e0\U0010ffff",
    "-1",
    "nan",
    "blocks.999999999999.hook_resid_post",
    "layers.-99999999999999",
    "\u0661",
)
_NO_TEXTS = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"good\xfe")
_LENGTHS = (257, 4096, 20_000, 200_000)
_REPEATS = (2, 3, 17, 300, 4000)
_DEPTHS = (6, 38, 42, 78, 84, 98, 120)
"""Of messages; protobuf reads up to 100."""
_MOST_BYTES = 2_000_000
"""Of a repeated field; messages of 64 MiB are a matter of their own."""


class Mutator:
    """Spoils requests.

    Args:
        choice: what is drawn from; the same seed gives the same mutations.
    """

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice

    def by_field(self, raw: bytes, descriptor: Descriptor) -> bytes:
        """One to three fields unset, repeated, or given values that are huge, negative, not finite, wrong or nested."""
        tree = WireTree.parse(raw, descriptor)
        for _ in range(self._choice.choice((1, 1, 1, 2, 3))):
            self._mutate(tree)
        return tree.to_bytes()

    def by_byte(self, raw: bytes, other: bytes) -> bytes:
        """One to four places cut out, overwritten, inserted, doubled or taken from another request."""
        mutated = bytearray(raw)
        for _ in range(self._choice.choice((1, 1, 2, 4))):
            begin = self._choice.randint(0, len(mutated))
            end = min(len(mutated), begin + self._choice.choice((1, 1, 2, 8, 64)))
            match self._choice.randrange(7):
                case 0 if begin < len(mutated):
                    mutated[begin] ^= 1 << self._choice.randrange(8)
                case 1:
                    del mutated[begin:end]
                case 2:
                    del mutated[begin:]
                case 3:
                    mutated[begin:begin] = self._choice.randbytes(self._choice.choice((1, 2, 5)))
                case 4:
                    mutated[begin:end] = mutated[begin:end] * 2
                case 5:
                    mutated[begin:end] = varint(self._choice.choice(_INTEGERS))
                case _:
                    mutated[begin:] = other[self._choice.randint(0, len(other)) :]
        return bytes(mutated)

    def _mutate(self, tree: WireTree) -> None:
        ways: list[Callable[[WireTree], None]] = [
            self._unset,
            self._repeat,
            self._value,
            self._value,
            self._value,
            self._add,
            self._add,
            self._unknown,
            self._mistype,
            self._graft,
        ]
        self._choice.choice(ways)(tree)

    def _place(self, tree: WireTree) -> tuple[WireTree, Field] | None:
        places = list(tree.places())
        return self._choice.choice(places) if places else None

    def _unset(self, tree: WireTree) -> None:
        if place := self._place(tree):
            place[0].fields.remove(place[1])

    def _repeat(self, tree: WireTree) -> None:
        if place := self._place(tree):
            within, field = place
            most = max(1, _MOST_BYTES // len(field.to_bytes()))
            index = within.fields.index(field)
            times = min(most, self._choice.choice(_REPEATS))
            within.fields[index:index] = [field.copy() for _ in range(times)]

    def _value(self, tree: WireTree) -> None:
        """A field that is there gets a value that is unlikely to be good."""
        if place := self._place(tree):
            self._spoil(place[1])

    def _add(self, tree: WireTree) -> None:
        """A field of the contract that is not there appears."""
        within = self._choice.choice(list(tree.trees()))
        if within.descriptor.fields:
            known = self._choice.choice(within.descriptor.fields)
            empty = WireTree(known.message_type) if known.message_type is not None else b""
            value = 0 if wire_type_of(known) == VARINT else empty
            field = Field(known.number, wire_type_of(known), value, known)
            self._spoil(field)
            within.fields.append(field)

    def _unknown(self, tree: WireTree) -> None:
        within = self._choice.choice(list(tree.trees()))
        number = self._choice.choice((13, 16, 99, 19_000, 2**29 - 1))
        within.fields.append(Field(number, LENGTH_DELIMITED, self._choice.randbytes(self._choice.choice((0, 3, 500)))))

    def _mistype(self, tree: WireTree) -> None:
        """A field is written as another type: protobuf takes it for one that it does not know."""
        if place := self._place(tree):
            field = place[1]
            field.wire_type = self._choice.choice((VARINT, FIXED64, LENGTH_DELIMITED, FIXED32, 3, 4, 7))
            if field.wire_type == VARINT:
                field.value = self._choice.choice(_INTEGERS)
            else:
                field.value = self._choice.randbytes({FIXED64: 8, FIXED32: 4}.get(field.wire_type, 3))

    def _graft(self, tree: WireTree) -> None:
        """A message is put where another of its type is, or beside it: cases of a oneof come several at a time."""
        trees = list(tree.trees())
        source, target = self._choice.choice(trees), self._choice.choice(trees)
        if source.descriptor is target.descriptor:
            target.fields += source.copy().fields
        elif place := self._place(tree):
            within, field = place
            within.fields.append(field.copy())
            self._spoil(within.fields[-1])

    def _spoil(self, field: Field) -> None:
        known = field.descriptor
        if known is None or field.wire_type == VARINT:
            field.value, field.wire_type = self._choice.choice(_INTEGERS), VARINT
        elif known.message_type is not None:
            field.value = self._tree(known.message_type)
        elif known.type == FieldDescriptor.TYPE_STRING:
            field.value = self._text()
        elif known.type == FieldDescriptor.TYPE_BYTES:
            field.value = self._choice.randbytes(self._choice.choice((0, 1, 7, *_LENGTHS)))
        elif known.type == FieldDescriptor.TYPE_DOUBLE:
            field.value = struct.pack("<d", self._choice.choice(_DOUBLES))
        else:
            field.value = self._choice.randbytes(8 if field.wire_type == FIXED64 else 4)

    def _text(self) -> bytes:
        match self._choice.randrange(4):
            case 0:
                return self._choice.choice(_NO_TEXTS)
            case 1:
                return self._choice.choice(("a", "ü", "/", "{", "\0")).encode() * self._choice.choice(_LENGTHS)
            case _:
                return self._choice.choice(_TEXTS).encode()

    def _tree(self, descriptor: Descriptor) -> WireTree | bytes:
        """An empty message, garbage, or one that is nested in itself."""
        match self._choice.randrange(3):
            case 0:
                return WireTree(descriptor)
            case 1:
                return self._choice.randbytes(self._choice.choice((1, 5, 50)))
            case _:
                return self._nested(descriptor)

    def _nested(self, descriptor: Descriptor) -> WireTree:
        way = _way_back(descriptor)
        tree = WireTree(descriptor)
        for _ in range(self._choice.choice(_DEPTHS) // len(way) if way else 0):
            for known in reversed(way):
                assert known.containing_type is not None
                tree = WireTree(known.containing_type, [Field(known.number, LENGTH_DELIMITED, tree, known)])
        return tree


def _way_back(descriptor: Descriptor) -> list[FieldDescriptor]:
    """The fields that lead from a message to one of its own type; empty if none do."""
    ways = [[field] for field in _messages_in(descriptor)]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        last = way[-1].message_type
        assert last is not None
        if last is descriptor:
            return way
        if last.full_name not in seen:
            seen.add(last.full_name)
            ways += [[*way, field] for field in _messages_in(last)]
    return []


def _messages_in(descriptor: Descriptor) -> list[FieldDescriptor]:
    return [field for field in descriptor.fields if field.message_type is not None]
