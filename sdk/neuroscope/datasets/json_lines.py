"""JSONL files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from neuroscope.errors import InvalidRequestError

T = TypeVar("T")


def read_json_lines(path: str | Path, parse: Callable[[Any, str], T], field: str) -> list[T]:
    """Parses every non-empty line; `parse` takes the value and its field, such as pairs[2].

    Raises:
        InvalidRequestError: the file cannot be read, or a line is invalid; the message names file, line and field.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # other line separators may be part of a text
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}", field=field) from None
    found: list[T] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(parse(json.loads(line), f"{field}[{len(found)}]"))
        except InvalidRequestError as error:
            told, at, valid = error.message, error.field, error.valid
        except ValueError as error:
            told, at, valid = f"no JSON: {error}", f"{field}[{len(found)}]", ()
        else:
            continue
        raise InvalidRequestError(f"{path}, line {number}: {told}", field=at, valid=valid)
    return found
