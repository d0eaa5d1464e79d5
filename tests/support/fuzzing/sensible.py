"""Good requests of any message type, made from its descriptor: examples where there are any, else small values."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_DEEPEST = 5
_INTEGERS = (0, 1, 2, 3)
_FRACTIONS = (0.0, 0.25, 0.5, 1.0)
_TEXTS = ("", "a", "fuzz")
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


class Sensible:
    """Makes messages.

    Args:
        examples: what is likely to be good, by message (`Site`: whole messages) or by field (`Sampling.max_tokens`, or
            `model_id` in any message: a value, or a sequence of a repeated field). None is a field that is left out,
            `...` one that is set as its type says. A field without examples is set now and then.
    """

    def __init__(self, examples: Mapping[str, Sequence[Any]]) -> None:
        self.examples = dict(examples)

    def message(self, descriptor: Descriptor, choice: random.Random, depth: int = 0) -> Message:
        """A message of a type.

        Args:
            descriptor: the type.
            choice: draws from the examples.
            depth: of the messages around it.
        """
        made: Message = message_factory.GetMessageClass(descriptor)()
        if ready := self.examples.get(descriptor.name):
            made.CopyFrom(choice.choice(ready))
            return made
        chosen = {
            choice.choice([field.name for field in oneof.fields])
            for oneof in descriptor.oneofs
            if len(oneof.fields) > 1
        }
        for field in descriptor.fields:
            one_of_several = field.containing_oneof is not None and len(field.containing_oneof.fields) > 1
            if not one_of_several or field.name in chosen:
                self._set(made, field, choice, depth, needed=one_of_several)
        return made

    def _set(self, made: Message, field: FieldDescriptor, choice: random.Random, depth: int, *, needed: bool) -> None:
        examples = self.examples.get(f"{made.DESCRIPTOR.name}.{field.name}") or self.examples.get(field.name)
        if not examples and not needed and (depth >= _DEEPEST or choice.random() < 0.7):
            return
        value = choice.choice(examples) if examples else ...
        if value is ...:
            value = self._value(field, choice, depth)
        if value is not None:
            made.MergeFrom(type(made)(**{field.name: value}))

    def _value(self, field: FieldDescriptor, choice: random.Random, depth: int) -> Any:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            return {self._element(key, choice, depth): self._element(value, choice, depth)}
        if field.is_repeated:
            return [self._element(field, choice, depth) for _ in range(choice.choice((1, 1, 2)))]
        return self._element(field, choice, depth)

    def _element(self, field: FieldDescriptor, choice: random.Random, depth: int) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, choice, depth + 1)
        if field.enum_type is not None:
            return choice.choice(field.enum_type.values).number
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            text = choice.choice(_TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return choice.random() < 0.5
        return choice.choice(_FRACTIONS if field.cpp_type in _FLOATS else _INTEGERS)
