"""Schemas of the gateway follow the contract: same fields, types and enum values, except for a table of differences.

Run: .venv/bin/python -m pytest tests/unit/test_gateway_contract.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel

from neuroscope.v1 import experiment_pb2
from neuroscope_gateway import schemas
from neuroscope_gateway.http.message_json import enum_name
from neuroscope_gateway.schemas import metrics
from neuroscope_gateway.schemas.unsupported import Unsupported
from tests.support.gateway_contract import CONTRACTS, PARTS, TYPES, WITHOUT_MESSAGE, Contract

ALWAYS_ADDED = {"object", "stream", "format"}
_INTEGERS = {
    getattr(FieldDescriptor, f"TYPE_{name}")
    for name in ("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64", "FIXED32", "FIXED64")
}


def _schemas() -> Iterator[type[BaseModel]]:
    for module in pkgutil.iter_modules(schemas.__path__):
        loaded = importlib.import_module(f"{schemas.__name__}.{module.name}")
        for _, found in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(found, BaseModel) and found.__module__ == loaded.__name__ and "[" not in found.__name__:
                yield found


def _fields(descriptor: Descriptor, expanded: Iterable[str], prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    for field in cast("Iterable[FieldDescriptor]", descriptor.fields):
        path = f"{prefix}{field.name}"
        if path in expanded:
            yield from _fields(cast("Descriptor", field.message_type), expanded, f"{path}.")
        else:
            yield path, field


def _proto_type(field: FieldDescriptor) -> str:
    """The JSON type of a field, such as `integer` or `[string]`."""
    if field.message_type is not None:
        one = "object" if field.message_type.GetOptions().map_entry else TYPES.get(field.message_type.name, "object")
        is_map = field.message_type.GetOptions().map_entry
        return f"[{one}]" if field.is_repeated and not is_map else one
    if field.enum_type is not None or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        one = "string"
    elif field.type in _INTEGERS:
        one = "integer"
    else:
        one = "boolean" if field.type == FieldDescriptor.TYPE_BOOL else "number"
    return f"[{one}]" if field.is_repeated else one


def _json_type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type of a property of a JSON schema, null left out."""
    if "$ref" in schema:
        return _json_type(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            parts = {_json_type(one, definitions) for one in schema[key]} - {"null"}
            return "|".join(sorted({part for joined in parts for part in _split(joined)}))
    if schema.get("type") == "array":
        items = schema.get("items") or (schema["prefixItems"][0] if "prefixItems" in schema else {})
        return f"[{_json_type(items, definitions)}]"
    return schema.get("type") or ("string" if "enum" in schema or "const" in schema else "any")


def _split(joined: str) -> list[str]:
    return [joined] if joined.startswith("[") else joined.split("|")


def _values(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str] | None:
    """The values that a property may have; None where any text may."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return {schema["const"]}
    if "enum" in schema:
        return set(schema["enum"])
    found = [_values(one, definitions) for one in schema.get("anyOf", []) if one.get("type") != "null"]
    if schema.get("type") == "array":
        found = [_values(schema.get("items", {}), definitions)]
    return found[0] if len(found) == 1 else None


def _expected(contract: Contract) -> dict[str, list[FieldDescriptor]]:
    """The fields of the messages by their names in the schema."""
    paths = [
        pair
        for message in contract.messages
        for pair in _fields(cast("Descriptor", message.DESCRIPTOR), contract.expanded)
    ]
    known = {path for path, _ in paths}
    for name in ("renamed", "left_out"):
        assert known >= set(getattr(contract, name)), f"{name} names no field of the message"
    found: dict[str, list[FieldDescriptor]] = {}
    for path, field in paths:
        if path not in contract.left_out:
            last = path.rpartition(".")[2]
            found.setdefault(contract.renamed.get(path, "model" if last == "model_id" else last), []).append(field)
    return found


def test_every_schema_is_in_the_table() -> None:
    found = set(_schemas())
    assert found == set(CONTRACTS) | set(WITHOUT_MESSAGE)
    assert not set(CONTRACTS) & set(WITHOUT_MESSAGE)


@pytest.mark.parametrize("schema", CONTRACTS, ids=lambda schema: schema.__name__)
def test_a_schema_has_the_fields_of_its_messages(schema: type[BaseModel]) -> None:
    contract = CONTRACTS[schema]
    expected = set(_expected(contract))
    unsupported = {
        name for name, info in schema.model_fields.items() if any(isinstance(one, Unsupported) for one in info.metadata)
    }
    own = set(schema.model_fields) - unsupported - (ALWAYS_ADDED - expected)
    assert own == expected | set(contract.added)
    assert not expected & set(contract.added), "a field of the message needs no entry in `added`"


@pytest.mark.parametrize("schema", CONTRACTS, ids=lambda schema: schema.__name__)
def test_a_schema_has_the_types_of_its_messages(schema: type[BaseModel]) -> None:
    contract = CONTRACTS[schema]
    document = schema.model_json_schema()
    definitions, properties = document.get("$defs", {}), document["properties"]
    for name, fields in _expected(contract).items():
        wanted = contract.types.get(name)
        types = {_proto_type(field) for field in fields} if wanted is None else {wanted}
        assert {_json_type(properties[name], definitions)} == types, name
        values = _values(properties[name], definitions)
        if values is not None and name in contract.values:
            assert values == contract.values[name], name
        elif values is not None and wanted is None:
            enums = [field.enum_type for field in fields if field.enum_type is not None]
            assert enums, f"{name} has values, and the message none"
            assert values == {enum_name(enum, number) for enum in enums for number in enum.values_by_number if number}


def test_messages_without_a_schema_have_the_known_fields() -> None:
    for message, fields in PARTS.items():
        assert {field.name for field in message.DESCRIPTOR.fields} == fields, message.__name__


def test_every_metric_has_a_kind() -> None:
    kinds = {field.name for field in experiment_pb2.Metric.DESCRIPTOR.oneofs_by_name["kind"].fields}
    served = _values(metrics.Metric.model_json_schema()["properties"]["kind"], {})
    assert served == kinds - {"weighted_sum", "python_function"}, "terms are a weighted sum"


def test_no_field_is_a_time_in_milliseconds() -> None:
    names = {name for schema in _schemas() for name in schema.model_fields}
    assert not [name for name in names if name.endswith("_at_ms")]
