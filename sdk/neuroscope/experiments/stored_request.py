"""What is asked of a service, as a value that JSON files hold."""

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
    """A request of the contract as a value.

    Args:
        request: as the contract carries it; it is kept as it is.
    """

    __slots__ = ("request",)
    kind: ClassVar[str]
    """What errors call it."""

    def __init__(self, request: _Request) -> None:
        self.request = request

    @classmethod
    @abstractmethod
    def empty(cls) -> _Request:
        """A request of this kind with nothing in it."""

    def to_json(self) -> dict[str, Any]:
        """The request in protobuf's canonical JSON, with the contract's field names."""
        return json_format.MessageToDict(self.request, preserving_proto_field_name=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the form of `to_json`.

        Raises:
            InvalidRequestError: a field is unknown or malformed; says which.
        """
        try:
            return cls(json_format.ParseDict(dict(value), cls.empty()))
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
            raise InvalidRequestError(f"this is no {cls.kind}: {error}", field=cls.kind) from None

    def save(self, path: str | Path) -> None:
        """Writes it as a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads the file of `save`.

        Raises:
            InvalidRequestError: it holds something else.
        """
        return cls.from_json(read_object(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.request == other.request

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        InvalidRequestError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}", field="path") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path} holds no JSON object", field="path")
    return cast("dict[str, Any]", value)
