"""Messages of the contract as JSON, with the enum values that requests use instead of the contract's constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from neuroscope.circuits import METHODS
from neuroscope.v1 import circuit_pb2
from neuroscope.vocabulary.message_text import enum_text

_NAMES: dict[EnumDescriptor, dict[int, str]] = {
    circuit_pb2.CircuitMethod.DESCRIPTOR: {number: name for name, number in METHODS.items()},
    circuit_pb2.CircuitGranularity.DESCRIPTOR: {
        circuit_pb2.CIRCUIT_GRANULARITY_EDGE: "edges",
        circuit_pb2.CIRCUIT_GRANULARITY_NODE: "nodes",
    },
}


def message_json(message: Message, *, defaults: bool = False) -> dict[str, Any]:
    """The fields of a message by name, as protobuf's JSON has them, with `enum_name` for enum values.

    Args:
        message: any message of the contract.
        defaults: includes fields without presence that have their default value.
    """
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=defaults
    )
    return _with_enum_names(cast("Mapping[str, FieldDescriptor]", message.DESCRIPTOR.fields_by_name), fields)


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """A value as REST requests and responses name it: SWEEP_METHOD_LAYERS is `layers`."""
    return _NAMES.get(enum, {}).get(number) or enum_text(enum, number).replace("-", "_")


def _with_enum_names(descriptors: Mapping[str, FieldDescriptor], fields: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        field = descriptors[name]
        each = cast("list[Any]", value) if field.is_repeated and isinstance(value, list) else [value]
        if field.enum_type is not None:
            numbers = field.enum_type.values_by_name
            each = [enum_name(field.enum_type, numbers[one].number) if one in numbers else one for one in each]
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            each = [_with_enum_names(field.message_type.fields_by_name, one) for one in each]
        found[name] = each if isinstance(value, list) else each[0]
    return found


def event_json(event: Message) -> dict[str, Any]:
    """An event of a stream, whose oneof is `event`: the set message with its name as `type`."""
    kind = event.WhichOneof("event") or ""
    return {"type": kind, **message_json(getattr(event, kind), defaults=True)}
