"""JSON schemas in any of the forms that users have, as messages of the contract.

{"type": "object", "properties": {...}}     a dict
'{"type": "integer"}'                       its JSON text
City                                        a class with `model_json_schema`, such as a pydantic model
pb.JsonSchema(schema=..., lenient=True)     the message
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb


@runtime_checkable
class HasJsonSchema(Protocol):
    """What pydantic's models have."""

    def model_json_schema(self) -> dict[str, Any]:
        """The schema."""
        ...


JsonSchemaLike: TypeAlias = "Mapping[str, Any] | str | HasJsonSchema | pb.JsonSchema"
"""A JSON schema."""


def to_message(schema: JsonSchemaLike) -> pb.JsonSchema:
    """The message of a schema.

    Raises:
        InvalidRequestError: it has none of the forms, or holds what JSON does not have.
    """
    if isinstance(schema, pb.JsonSchema):
        return schema
    if isinstance(schema, str):
        return pb.JsonSchema(schema=schema)
    fields: Any = schema.model_json_schema() if isinstance(schema, HasJsonSchema) else schema
    if not isinstance(fields, Mapping):
        raise InvalidRequestError(f"a JSON schema is a dict or a JSON text, not {fields!r}", field="json_schema")
    try:
        return pb.JsonSchema(schema=json.dumps(dict(cast("Mapping[str, Any]", fields)), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the schema is not JSON: {error}", field="json_schema") from error
