"""Whether a JSON schema has an instance of finite size.

llguidance finds contradictions such as a minimum above the maximum. It does not find a schema that requires itself for
ever, such as a node whose child is required and is a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote


def has_finite_instance(schema: Mapping[str, Any]) -> bool:
    """Whether some finite instance satisfies the schema, as far as required parts of it and local `$ref` tell.

    What it does not know counts as satisfiable: keywords are checked by the compiler.
    """
    finite: set[int] = set()
    known = {id(part): part for part in _schemas(schema)}
    while True:
        more = {key for key, part in known.items() if key not in finite and _is_finite(part, schema, finite)}
        if not more:
            return id(schema) in finite
        finite |= more


def _is_finite(schema: Any, root: Mapping[str, Any], finite: set[int]) -> bool:
    """Whether the parts that every instance of a schema has are finite, if those in `finite` are."""
    if not isinstance(schema, Mapping):
        return True
    needed = list(_required_parts(schema))
    if isinstance(reference := schema.get("$ref"), str):
        needed.append(_resolve(reference, root))
    if isinstance(every := schema.get("allOf"), list):
        needed += every
    choices = [options for key in ("anyOf", "oneOf") if isinstance(options := schema.get(key), list) and options]
    return all(_holds(part, finite) for part in needed) and all(
        any(_holds(option, finite) for option in options) for options in choices
    )


def _required_parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas of required properties and items; none where the type may be another."""
    kind = schema.get("type")
    properties = schema.get("properties")
    if kind == "object" and isinstance(properties, Mapping) and isinstance(schema.get("required"), list):
        yield from (properties[name] for name in schema["required"] if name in properties)
    least = schema.get("minItems")
    if kind == "array" and isinstance(least, int) and least > 0:
        first = schema.get("prefixItems")
        prefix = first[:least] if isinstance(first, list) else []
        yield from prefix
        if len(prefix) < least and "items" in schema:
            yield schema["items"]


def _holds(part: Any, finite: set[int]) -> bool:
    return not isinstance(part, Mapping) or id(part) in finite


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What a local JSON pointer names; None where it is another kind of reference, or names nothing."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for name in reference[1:].split("/")[1:]:
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def _schemas(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a schema, itself first."""
    if isinstance(value, Mapping):
        yield value
        for entry in value.values():
            yield from _schemas(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _schemas(entry)
