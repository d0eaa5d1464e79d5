"""What an analysis of attention found: statistics and scores of all heads with named axes, and labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from neuroscope.analysis.attention_request import role_name
from neuroscope.analysis.labels import HeadLabel
from neuroscope.codec import Event, Framed
from neuroscope.errors import InvalidRequestError, StreamingError, nearest
from neuroscope.experiments.named_scores import listed, unlisted
from neuroscope.experiments.stored import read_object
from neuroscope.frames import FrameReader
from neuroscope.grid import Grid
from neuroscope.stream import warn
from neuroscope.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from rich.table import Table


class AttentionResult:
    """Heads of a model. It is filled as the stream comes, so it holds what there is when a call breaks off.

    `result["entropy"]` is an array over layer and head, of several prompts over prompt, layer and head;
    `result["induction_score"]` one over layer and head, of random sequences. `names` lists them.

    Args:
        request: what was asked for.
    """

    def __init__(self, request: pb.AnalyzeAttentionRequest) -> None:
        self.request = request
        self.plan: pb.AttentionPlan | None = None
        """What the service said that it would do: layers, roles, definitions, thresholds."""
        self.end: pb.AttentionResult | None = None
        """What it said at the end; None: it has not come to it."""
        self.labels: list[HeadLabel] = []
        """Roles of heads, role by role, highest score first; those that are not confirmed too."""
        self._reader: FrameReader | None = None
        self._tensors: dict[tuple[int, int], NDArray[np.float32]] = {}

    # Taking it in.

    def feed(self, event: Event) -> pb.AnalyzeAttentionResponse | None:
        """Takes in an event of the stream; gives it back if it is a message.

        Raises:
            StreamingError, ChecksumError: it is none of an analysis of attention, or came damaged.
        """
        if isinstance(event, Framed):
            if self._reader is None:
                raise StreamingError("arrays came before the plan")
            for piece in self._reader.read(event):
                self._tensors[piece.spec.plan_index, piece.row] = np.array(piece.array[0], np.float32)
            return None
        if not isinstance(event, pb.AnalyzeAttentionResponse):
            raise StreamingError("this is no stream of an analysis of attention")
        match event.WhichOneof("event"):
            case "plan":
                self._begin(event.plan)
            case "partial" if event.partial.HasField("label"):
                self.labels.append(HeadLabel.from_message(event.partial.label))
            case "result":
                self.end = event.result
                self.labels = [HeadLabel.from_message(label) for label in event.result.labels]
            case _:
                pass
        return event

    def finish(self) -> AttentionResult:
        """The result, once the stream has ended.

        Raises:
            StreamingError: it ended too early.
        """
        if self.end is None:
            raise StreamingError("the analysis ended before its last message")
        return self

    def _begin(self, plan: pb.AttentionPlan) -> None:
        self.plan = plan
        self._reader = FrameReader(plan.arrays)
        warn(plan.warnings)

    # Reading it.

    @property
    def names(self) -> list[str]:
        """Names of the arrays: statistics of the prompts, then scores of roles."""
        return [spec.hook_id for spec in self._planned().arrays.tensors]

    @property
    def roles(self) -> list[str]:
        """Roles that were scored."""
        return [role_name(role.role) for role in self._planned().roles]

    def __getitem__(self, name: str) -> Grid:
        if name not in self.names:
            close = nearest(name, self.names)
            raise InvalidRequestError(
                f"the result has nothing of the name {name!r}; nearest: {', '.join(close)}", field="name", valid=close
            )
        plan, index = self._planned(), self.names.index(name)
        rows = sorted(row for of, row in self._tensors if of == index)
        if not rows:
            raise StreamingError(f"{name} has not come")
        values = np.stack([self._tensors[index, row] for row in rows])
        coords: dict[str, Any] = {"layer": list(plan.layers), "head": list(range(plan.head_count))}
        if len(plan.prompts) > 1 and not name.endswith("_score"):
            return Grid(name, values, ("prompt", "layer", "head"), {"prompt": rows, **coords})
        return Grid(name, values[0], ("layer", "head"), coords)

    def __iter__(self) -> Iterator[Grid]:
        return (self[name] for name in self.names)

    def heads(self, role: str, *, confirmed: bool = True) -> list[tuple[int, int]]:
        """Layer and head of those with a role, highest score first.

        Args:
            role: its name.
            confirmed: only those that a causal test confirms.

        Raises:
            InvalidRequestError: the role was not scored.
        """
        if role not in self.roles:
            raise InvalidRequestError(f"{role!r} was not scored", field="role", valid=self.roles)
        return [
            (label.layer, label.head)
            for label in self.labels
            if label.role == role and (label.is_confirmed or not confirmed)
        ]

    def table(self) -> Table:
        """The labels with their evidence; without roles, the heads' statistics."""
        from neuroscope.analysis import tables

        return tables.attention_table(self)

    def __rich__(self) -> Table:
        return self.table()

    def __repr__(self) -> str:
        if self.plan is None:
            return "AttentionResult(not begun)"
        confirmed = sum(label.is_confirmed for label in self.labels)
        return (
            f"AttentionResult({self.plan.model_id}: {len(self.plan.layers)} layers x {self.plan.head_count} heads, "
            f"{len(self.plan.prompts)} prompts, {len(self.labels)} labels, {confirmed} confirmed"
            f"{'' if self.end else ', not complete'})"
        )

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: a heat map of every statistic and score, labels marked (filled where confirmed).

        Args:
            path: where to write it, in the format of the ending: .png, .svg, .pdf, or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        try:
            from neuroscope.viz import attention_picture
        except ImportError:
            raise InvalidRequestError("plot needs matplotlib: pip install 'neuroscope-mlx[viz]'", field="viz") from None
        return attention_picture.draw(self, path)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        from neuroscope.tables import as_mimebundle

        return as_mimebundle(self.__rich__(), **options)

    def _planned(self) -> pb.AttentionPlan:
        if self.plan is None:
            raise InvalidRequestError("the analysis has not begun: it has no arrays", field="result")
        return self.plan

    # Keeping it.

    def to_json(self) -> dict[str, Any]:
        """Request, plan, arrays and labels; float32 survives to the last bit, NaN is null."""
        return {
            "request": json_format.MessageToDict(self.request, preserving_proto_field_name=True),
            "plan": json_format.MessageToDict(self._planned(), preserving_proto_field_name=True),
            "result": json_format.MessageToDict(self.end or pb.AttentionResult(), preserving_proto_field_name=True),
            "arrays": [
                {"plan_index": index, "row": row, "values": listed(tensor.reshape(-1))}
                for (index, row), tensor in sorted(self._tensors.items())
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AttentionResult:
        """From the form of `to_json`.

        Raises:
            InvalidRequestError: a part is missing or malformed.
        """
        try:
            result = cls(json_format.ParseDict(value["request"], pb.AnalyzeAttentionRequest()))
            result._begin(json_format.ParseDict(value["plan"], pb.AttentionPlan()))
            end = json_format.ParseDict(value["result"], pb.AttentionResult())
            result.feed(pb.AnalyzeAttentionResponse(result=end))
            shape = (len(result._planned().layers), result._planned().head_count)
            result._tensors = {
                (int(each["plan_index"]), int(each["row"])): unlisted(each["values"]).reshape(shape)
                for each in cast("list[dict[str, Any]]", value["arrays"])
            }
        except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
            raise InvalidRequestError(f"this is no analysis of attention: {error!r}", field="result") from None
        return result

    def save(self, path: str | Path) -> None:
        """Writes it as a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> AttentionResult:
        """Reads the file of `save`.

        Raises:
            InvalidRequestError: it holds something else.
        """
        return cls.from_json(read_object(path))
