"""Varied JSON schemas whose instances have a bounded length, so that an answer is complete within some 500 tokens."""

import random
from collections.abc import Mapping
from typing import Any

_NAMES = "name age city price colour tags owner address status count title unit day kind score notes".split()
_WORDS = "red green blue small large open closed north south done café naïve 東京".split()
_PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^[a-z]{3,8}$", r"^\+?[0-9]{6,9}$", "^(low|high)-[ab]$", "^#[0-9a-f]{6}$")
_FORMATS = ("date", "uuid", "ipv4")  # "time" has fractions of any length


def make_schemas(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Schemas of growing depth; the same for the same seed."""
    generator = random.Random(seed)
    return [_root(generator, 1 + index % 3) for index in range(count)]


def _root(generator: random.Random, depth: int) -> dict[str, Any]:
    schema = _object(generator, depth)
    if generator.random() < 0.3:
        schema["$defs"] = {"part": _value(generator, 1)}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["required"] = [*schema["required"], "part"]
    return schema


def _value(generator: random.Random, depth: int) -> dict[str, Any]:
    leaves = (_integer, _text, _pattern, _format, _choice, _constant, _plain, _number)
    nodes = (_object, _array, _tuple, _any_of)
    if depth <= 1 or generator.random() < 0.4:
        return generator.choice(leaves)(generator)
    return generator.choice(nodes)(generator, depth - 1)


def _object(generator: random.Random, depth: int) -> dict[str, Any]:
    names = generator.sample(_NAMES, generator.randint(1, 4))
    return {
        "type": "object",
        "title": "Thing",
        "properties": {name: _value(generator, depth) for name in names},
        "required": [name for name in names if generator.random() < 0.7],
        "additionalProperties": False,
    }


def _array(generator: random.Random, depth: int) -> dict[str, Any]:
    least = generator.randint(0, 2)
    return {"type": "array", "items": _value(generator, depth), "minItems": least, "maxItems": least + 2}


def _tuple(generator: random.Random, depth: int) -> dict[str, Any]:
    parts = [_value(generator, depth) for _ in range(2)]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": 2, "maxItems": 2}


def _any_of(generator: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(generator, depth), {"type": "null"}]}


def _integer(generator: random.Random) -> dict[str, Any]:
    low = generator.randint(-50, 50)
    return {"type": "integer", "minimum": low, "maximum": low + generator.randint(0, 2000)}


def _number(generator: random.Random) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}


def _text(generator: random.Random) -> dict[str, Any]:
    least = generator.randint(0, 5)
    return {"type": "string", "minLength": least, "maxLength": least + generator.randint(0, 15)}


def _pattern(generator: random.Random) -> dict[str, Any]:
    return {"type": "string", "pattern": generator.choice(_PATTERNS)}


def _format(generator: random.Random) -> dict[str, Any]:
    return {"type": "string", "format": generator.choice(_FORMATS)}


def _choice(generator: random.Random) -> dict[str, Any]:
    return {"enum": [*generator.sample(_WORDS, 3), generator.randint(0, 9), None]}


def _constant(generator: random.Random) -> dict[str, Any]:
    return {"const": generator.choice([*_WORDS, 7, True, None])}


def _plain(generator: random.Random) -> dict[str, Any]:
    return {"type": ["boolean", "null"]}


UNSATISFIABLE: Mapping[str, dict[str, Any]] = {
    "a required property that is false": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "fewer items than there must be": {"type": "array", "minItems": 3, "maxItems": 2},
    "no number": {"type": "integer", "minimum": 3, "maximum": 2},
    "no value": {"enum": []},
    "two types at once": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "itself": {"$ref": "#"},
    "a required child that is a node": {
        "type": "object",
        "properties": {"child": {"$ref": "#"}},
        "required": ["child"],
    },
    "two nodes that require each other": {
        "$defs": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1},
            "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"allOf": [{"$ref": "#/$defs/a"}]}]},
        },
        "$ref": "#/$defs/a",
    },
}
NOT_ENFORCEABLE: Mapping[str, dict[str, Any]] = {
    "a type that JSON does not have": {"type": "text"},
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "a definition that is missing": {"$ref": "#/$defs/nothing"},
    "a schema elsewhere": {"$ref": "https://example.com/schema.json"},
    "look-ahead": {"type": "string", "pattern": "(?=x)y"},
    "an unknown format": {"type": "string", "format": "colour"},
}


def nested(depth: int) -> dict[str, Any]:
    """A schema of this many nested arrays."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema
