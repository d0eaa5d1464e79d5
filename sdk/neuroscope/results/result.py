"""The base of all analysis results: request, plan and arrays, filled from a stream, stored as JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from numpy.typing import NDArray

from neuroscope.activations.stream import warn
from neuroscope.display import Displayable
from neuroscope.errors import InvalidRequestError, StreamingError, nearest
from neuroscope.experiments.named_scores import from_json_values, to_json_values
from neuroscope.experiments.stored_request import read_object
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader

if TYPE_CHECKING:
    from typing import Self

Request = TypeVar("Request", bound=Message)
Plan = TypeVar("Plan", bound=Message)
Response = TypeVar("Response", bound=Message)
End = TypeVar("End", bound=Message)


class AnalysisResult(Displayable, ABC, Generic[Request, Plan, Response, End]):
    """The result of an analysis. If the call fails midway, it holds everything received until then.

    Responses of the call are a `oneof event` of `plan` (which lists `arrays` and `warnings`), `progress`, `partial`,
    `result` and the two kinds of tensor frames.

    Args:
        request: the request of the analysis.
    """

    rpc: ClassVar[str]
    """Name of the call."""
    noun: ClassVar[str]
    """Name of the analysis in error messages: "an analysis of ..."."""
    request_type: ClassVar[type[Message]]
    response_type: ClassVar[type[Message]]

    def __init__(self, request: Request) -> None:
        self.request = request
        self.plan: Plan | None = None
        """The service's plan; None before it is received."""
        self.end: End | None = None
        """The last message; None until the analysis is complete."""
        self._reader: FrameReader | None = None
        self._tensors: dict[tuple[int, int], NDArray[np.float32]] = {}  # by plan index and row

    # Receiving.

    def feed(self, event: Event) -> Response | None:
        """Processes an event of the stream. Returns the message, or None for tensor frames.

        Raises:
            StreamingError: the event belongs to another kind of call.
            ChecksumError: a tensor was damaged on the way.
        """
        if isinstance(event, Frame):
            if self._reader is None:
                raise StreamingError("arrays came before the plan")
            for piece in self._reader.read(event):
                self._tensors[piece.spec.plan_index, piece.row] = np.array(piece.array[0], np.float32)
            return None
        if not isinstance(event, self.response_type):
            raise StreamingError(f"this is no stream of {self.noun}")
        response: Any = event
        match response.WhichOneof("event"):
            case "plan":
                self._on_plan(response.plan)
                warn(response.plan.warnings)
            case "partial":
                self._on_partial(response)
            case "result":
                self.end = response.result
                self._on_result(response.result)
            case _:
                pass
        return cast("Response", event)

    def finish(self) -> Self:
        """Returns the result after the end of the stream.

        Raises:
            StreamingError: the stream ended too early.
        """
        if self.end is None:
            raise StreamingError("the analysis ended before its last message")
        return self

    def _on_plan(self, plan: Plan) -> None:
        self.plan = plan
        self._reader = FrameReader(cast("Any", plan).arrays)

    @abstractmethod
    def _on_partial(self, response: Response) -> None:
        """Processes a partial result."""

    @abstractmethod
    def _on_result(self, end: End) -> None:
        """Processes the last message."""

    def _partial_end(self) -> Message:
        """What the last message would say of an analysis that broke off: nothing, unless a subclass keeps findings."""
        empty: Any = self.response_type()
        return empty.result

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [spec.hook_id for spec in cast("Any", self._require_plan()).arrays.tensors]

    def _require_plan(self) -> Plan:
        if self.plan is None:
            raise InvalidRequestError("the analysis has not begun: it has no arrays", field="result")
        return self.plan

    def _stacked(self, name: str) -> tuple[list[int], NDArray[np.float32]]:
        """The received rows of an array, and their values (row, ...).

        Raises:
            InvalidRequestError: the result has no array of that name.
            StreamingError: no row was received.
        """
        if name not in self.names:
            close = nearest(name, self.names)
            raise InvalidRequestError(
                f"the result has nothing of the name {name!r}; nearest: {', '.join(close)}", field="name", valid=close
            )
        index = self.names.index(name)
        rows = sorted(row for of, row in self._tensors if of == index)
        if not rows:
            raise StreamingError(f"{name} has not come")
        return rows, np.stack([self._tensors[index, row] for row in rows])

    # Storing.

    def to_json(self) -> dict[str, Any]:
        """Request, plan, result and arrays as JSON. float32 values are exact; NaN is null."""
        return {
            "request": json_format.MessageToDict(self.request, preserving_proto_field_name=True),
            "plan": json_format.MessageToDict(self._require_plan(), preserving_proto_field_name=True),
            "result": json_format.MessageToDict(
                self._partial_end() if self.end is None else self.end, preserving_proto_field_name=True
            ),
            "arrays": [
                {
                    "plan_index": index,
                    "row": row,
                    "shape": list(tensor.shape),
                    "values": to_json_values(tensor.reshape(-1)),
                }
                for (index, row), tensor in sorted(self._tensors.items())
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`.

        Raises:
            InvalidRequestError: a field is missing or malformed.
        """
        try:
            response: Any = cls.response_type()
            result = cls(cast("Any", json_format.ParseDict(value["request"], cls.request_type())))
            json_format.ParseDict(value["plan"], response.plan)
            result._on_plan(response.plan)
            json_format.ParseDict(value["result"], response.result)
            result.end = response.result
            result._on_result(response.result)
            result._tensors = {
                (int(each["plan_index"]), int(each["row"])): from_json_values(each["values"]).reshape(each["shape"])
                for each in cast("list[dict[str, Any]]", value["arrays"])
            }
        except (IndexError, KeyError, TypeError, ValueError, json_format.ParseError) as error:
            raise InvalidRequestError(f"this is not {cls.noun}: {error!r}", field="result") from None
        return result

    def save(self, path: str | Path) -> None:
        """Writes a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a file written by `save`.

        Raises:
            InvalidRequestError: the file has other content.
        """
        return cls.from_json(read_object(path))
