"""Requests that can be stored as JSON files."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from neuroscope.errors import InvalidRequestError

_Request = TypeVar("_Request", bound=Message)


class StoredRequest(Generic[_Request]):
    """A request of the contract.

    Args:
        request: the contract's message. It is kept, not copied.
    """

    __slots__ = ("request",)
    kind: ClassVar[str]
    """Name of the request in error messages."""

    def __init__(self, request: _Request) -> None:
        self.request = request

    @classmethod
    @abstractmethod
    def empty(cls) -> _Request:
        """An empty request of this kind."""

    def to_json(self) -> dict[str, Any]:
        """The request in protobuf's canonical JSON, with the contract's field names."""
        return json_format.MessageToDict(self.request, preserving_proto_field_name=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`.

        Raises:
            InvalidRequestError: a field is unknown or malformed; the message names it.
        """
        try:
            return cls(json_format.ParseDict(dict(value), cls.empty()))
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
            raise InvalidRequestError(f"this is no {cls.kind}: {error}", field=cls.kind) from None

    def save(self, path: str | Path) -> None:
        """Writes a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a file written by `save`.

        Raises:
            InvalidRequestError: the file has other content.
        """
        return cls.from_json(read_object(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.request == other.request

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages


def read_object(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        InvalidRequestError: the file does not exist, or has other content.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}", field="path") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path} holds no JSON object", field="path")
    return cast("dict[str, Any]", value)
