"""Objects of a JSON schema without properties that it does not list.

A schema that lists properties and says nothing of others allows any others, and small models then add some for ever.
What remains satisfies the schema, too. xgrammar and OpenAI's strict mode do the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

_KEYWORDS = frozenset({"additionalProperties", "unevaluatedProperties", "patternProperties", "minProperties"})
"""Say something of other properties."""
_COMBINE = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
"""Beside `properties` they add to the object; what they add is another property to it."""
_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Their values are schemas by name."""
_DATA = frozenset({"const", "enum", "default", "examples", "required"})
"""Their values are no schemas."""


def close_objects(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with `additionalProperties: false` where an object lists properties and says nothing of others.

    A schema with an `allOf` of several parts is left as it is: each part would exclude the properties of the others.
    """
    if any(len(part["allOf"]) > 1 for part in _parts(schema) if isinstance(part.get("allOf"), list)):
        return dict(schema)
    return _closed(schema)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    closed = {key: _closed_value(key, value) for key, value in schema.items()}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or schema.keys() & (_KEYWORDS | _COMBINE):
        return closed
    required = schema.get("required")
    is_listed = not isinstance(required, list) or all(name in properties for name in required)
    return closed | {"additionalProperties": False} if properties and is_listed else closed


def _closed_value(key: str, value: Any) -> Any:
    if key in _DATA:
        return value
    if isinstance(value, list):
        return [_closed(entry) if isinstance(entry, Mapping) else entry for entry in cast("list[Any]", value)]
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, Any]", value)
    if key not in _NAMED:
        return _closed(fields)
    return {name: _closed(entry) if isinstance(entry, Mapping) else entry for name, entry in fields.items()}


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a schema."""
    if isinstance(value, Mapping):
        yield cast("Mapping[str, Any]", value)
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for entry in entries:
        yield from _parts(entry)
