"""A whole experiment as a value: prompts, what is swept, how runs are scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from google.protobuf import json_format

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb


class Experiment:
    """What a sweep is made of. JSON holds it, and `Client.sweep` runs it, today or in a year.

    Args:
        request: as the contract carries it; it is kept as it is.
    """

    __slots__ = ("request",)

    def __init__(self, request: pb.RunSweepRequest) -> None:
        self.request = request

    def to_json(self) -> dict[str, Any]:
        """The request in protobuf's canonical JSON, with the contract's field names."""
        return json_format.MessageToDict(self.request, preserving_proto_field_name=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Experiment:
        """From the form of `to_json`.

        Raises:
            InvalidRequestError: a field is unknown or malformed; says which.
        """
        try:
            return cls(json_format.ParseDict(dict(value), pb.RunSweepRequest()))
        except (json_format.ParseError, ValueError, TypeError, AttributeError) as error:
            raise InvalidRequestError(f"this is no experiment: {error}", field="experiment") from None

    def save(self, path: str | Path) -> None:
        """Writes it as a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Reads the file of `save`.

        Raises:
            InvalidRequestError: it holds something else.
        """
        return cls.from_json(read_object(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.request == other.request

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages

    def __repr__(self) -> str:
        request = self.request
        swept = [grid.site.component for grid in request.grids] + [f"{len(request.cells)} cells"] * bool(request.cells)
        return (
            f"Experiment({len(request.pairs)} {'pair' if len(request.pairs) == 1 else 'pairs'}, "
            f"{' + '.join(swept) or 'nothing swept'}, {request.metric.WhichOneof('kind') or 'no metric'})"
        )


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
