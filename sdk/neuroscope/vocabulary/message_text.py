"""Messages of the contract as plain values for people: short names of enums, times as ISO 8601."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_TIME_SUFFIX = "_at_ms"


def plain(message: Message, *, defaults: bool = False) -> dict[str, Any]:
    """The fields of a message by name.

    Args:
        message: any message of the contract.
        defaults: with fields without presence that hold their default.

    Returns:
        Enum values by their short names (`CIRCUIT_METHOD_EAP_IG` is `eap-ig`), times (`..._at_ms`) as ISO 8601 under
        their name without the unit, bytes as their length, messages and lists likewise.
    """
    shown: dict[str, Any] = {}
    for field in cast("Iterable[FieldDescriptor]", message.DESCRIPTOR.fields):
        value = getattr(message, field.name)
        if _is_shown(message, field, value, defaults):
            name = field.name.removesuffix("_ms") if field.name.endswith(_TIME_SUFFIX) else field.name
            shown[name] = _plain(field, value, defaults)
    return shown


def enum_text(enum: EnumDescriptor, number: int) -> str:
    """The short name of a value: without the enum's own name, in lower case; its number where it has no name."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return value.name.removeprefix(prefix).lower().replace("_", "-")


def _is_shown(message: Message, field: FieldDescriptor, value: Any, defaults: bool) -> bool:
    if field.is_repeated:
        return bool(value) or defaults
    if field.has_presence:
        return message.HasField(field.name)
    return bool(value) or defaults


def _plain(field: FieldDescriptor, value: Any, defaults: bool) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): _entry(field.message_type.fields_by_name["value"], value[key], defaults) for key in value}
    if field.is_repeated:
        entries: Iterable[Any] = value
        return [_entry(field, entry, defaults) for entry in entries]
    return _entry(field, value, defaults)


def _entry(field: FieldDescriptor, value: Any, defaults: bool) -> Any:
    if field.message_type is not None:
        return plain(value, defaults=defaults)
    if field.enum_type is not None:
        return enum_text(field.enum_type, value)
    if field.name.endswith(_TIME_SUFFIX):
        return datetime.fromtimestamp(value / 1e3, UTC).isoformat(timespec="seconds")
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return float(f"{value:.7g}")  # what is left of 0.001 in 32 bits
    return len(value) if isinstance(value, bytes) else value
