"""`response_format` of chat completions: what the text of the answer must be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary import json_schemas
from neuroscope.vocabulary.strict_model import INVALID, StrictModel, Text

FORMAT_NAME = r"^[A-Za-z0-9_-]{1,64}$"


class TextFormat(StrictModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(StrictModel):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchemaDefinition(StrictModel):
    """A JSON schema and its name."""

    name: Annotated[Text, Field(pattern=FORMAT_NAME)]
    """Letters, digits, underscores and hyphens; at most 64."""
    description: Text | None = None
    """Accepted and ignored."""
    json_schema: dict[str, Any] = Field(default_factory=dict[str, Any], alias="schema")
    """The schema."""
    strict: bool | None = False
    """Refuses a schema with a keyword that cannot be enforced; without it the keyword is left out."""


class JsonSchemaFormat(StrictModel):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaDefinition


def _tag(value: Any) -> str:
    kind = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    Discriminator(
        _tag,
        custom_error_type=INVALID,
        custom_error_message="The type is text, json_object or json_schema",
    ),
]


def schema_message(response_format: ResponseFormat | None) -> inference_pb2.JsonSchema | None:
    """The schema that a format enforces; None for any text.

    Raises:
        InvalidRequestError: the schema is too deep.
    """
    match response_format:
        case JsonObjectFormat():
            return inference_pb2.JsonSchema(schema='{"type": "object"}')
        case JsonSchemaFormat(json_schema=definition):
            message = json_schemas.to_message(definition.json_schema)
            message.lenient = not definition.strict
            return message
        case _:
            return None
