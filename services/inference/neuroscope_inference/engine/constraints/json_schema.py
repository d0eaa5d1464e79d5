"""JSON schemas of constraints: what is checked before llguidance compiles them."""

from __future__ import annotations

import json
from typing import Any, cast

from llguidance import LLMatcher, LLTokenizer

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.constraints.closed_objects import close_objects
from neuroscope_inference.engine.constraints.constraint import one_line
from neuroscope_inference.engine.constraints.finiteness import has_finite_instance

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_rule(message: pb.JsonSchema, vocabulary: LLTokenizer, field: str) -> str:
    """The right side of a grammar rule that matches what a schema allows, written as `json.dumps` writes it.

    Args:
        message: the schema.
        vocabulary: the model's.
        field: of the request, named in errors: that of `message.schema`.

    Raises:
        InvalidRequestError: the schema is not JSON, too large, too deep, has keywords that cannot be enforced, or no
            finite text satisfies it.
    """
    schema = parse_schema(message.schema, field)
    if not has_finite_instance(schema):
        raise InvalidRequestError("no finite text satisfies the schema: it requires itself", field=field)
    options = _OPTIONS | {"lenient": message.lenient, "coerce_one_of": message.lenient}
    text = json.dumps(close_objects(schema) | {"x-guidance": options})
    # by itself: in a larger grammar an error shows that grammar, not the schema
    if reason := LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text), vocabulary):
        raise InvalidRequestError(f"the schema cannot be enforced: {one_line(reason)}", field=field)
    return f"%json {text}"


def parse_schema(text: str, field: str) -> dict[str, Any]:
    """A schema as an object; `true` is `{}`.

    Raises:
        InvalidRequestError: it is no JSON object, too large or too deep.
    """
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(f"the schema has more than {MAX_SCHEMA_BYTES} bytes", field=field)
    try:
        schema: Any = json.loads(text)
        deep = _depth_exceeds(schema, MAX_SCHEMA_DEPTH)
    except RecursionError:
        deep, schema = True, {}
    except ValueError as error:
        raise InvalidRequestError(f"the schema is not JSON: {error}", field=field) from error
    if deep:
        raise InvalidRequestError(f"the schema has more than {MAX_SCHEMA_DEPTH} levels", field=field)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InvalidRequestError("a JSON schema is an object", field=field)
    return cast("dict[str, Any]", schema)


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    entries = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_exceeds(entry, limit - 1) for entry in entries)
