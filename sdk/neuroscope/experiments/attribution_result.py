"""The result of an attribution: scores of components, edges or positions, with named axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from neuroscope.activations.stream import warn
from neuroscope.display import show
from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.experiments.attribution import Attribution, features_of
from neuroscope.experiments.baselines import Baselines
from neuroscope.experiments.named_scores import NamedScores, unique_names
from neuroscope.experiments.scores import Scores
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary.component_names import receiver_name, sender_name
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader

if TYPE_CHECKING:
    from rich.table import Table

EDGES, INPUTS = "edges", "inputs"
_A = tensor_pb2.Axis
_DIMS = {
    _A.AXIS_LAYER: "layer",
    _A.AXIS_POSITION: "position",
    _A.AXIS_HEAD: "head",
    _A.AXIS_SENDER: "sender",
    _A.AXIS_RECEIVER: "receiver",
    _A.AXIS_FEATURE: "feature",
}
_UNIT = "unit"


class AttributionResult(NamedScores):
    """The scores of an attribution: the estimated change of the metric if an activation were that of the other run.

    `result["head_output"]` has the `Scores` of a component, `result["edges"]` those of edges (sender, receiver; NaN if
    there is no such edge), `result["inputs"]` those of positions. If there is only one, its attributes are available on
    the result itself.

    Args:
        attribution: the attribution.
        warns: whether to issue the plan's warnings as Python warnings.
    """

    def __init__(self, attribution: Attribution, *, warns: bool = True) -> None:
        self.attribution = attribution
        self._warns = warns
        self.plan: pb.AttributionPlan | None = None
        """The service's plan; None before it is received."""
        self.end: pb.AttributionEnd | None = None
        """The last message; None until the attribution is complete."""
        self.tokens: list[str] = []
        """Tokens of the first edited prompt as text."""
        self.completeness: list[pb.Completeness] = []
        """For integrated gradients: how much of each pair's change the scores explain."""
        self._reader: FrameReader | None = None
        self._tensors: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._baselines = Baselines()

    # Receiving.

    def feed(self, event: Event) -> pb.AttributeResponse | None:
        """Processes an event of the stream. Returns the message, or None for tensor frames.

        Raises:
            StreamingError: the event belongs to another kind of call.
            ChecksumError: a tensor was damaged on the way.
        """
        if isinstance(event, Frame):
            if self._reader is None:
                raise StreamingError("scores came before the plan")
            for piece in self._reader.read(event):
                self._tensors[piece.spec.plan_index, piece.row] = np.array(piece.array[0])
            return None
        if not isinstance(event, pb.AttributeResponse):
            raise StreamingError("this is no stream of an attribution")
        match event.WhichOneof("event"):
            case "plan":
                self._on_plan(event.plan)
            case "baseline":
                self._baselines.feed(event.baseline)
            case "completeness":
                self.completeness.append(event.completeness)
            case "end":
                self.end = event.end
            case _:
                pass
        return event

    def finish(self) -> AttributionResult:
        """Returns the result after the end of the stream.

        Raises:
            StreamingError: the stream ended too early.
        """
        if self.end is None:
            raise StreamingError("the attribution ended before its last message")
        return self

    def _on_plan(self, plan: pb.AttributionPlan) -> None:
        self.plan = plan
        self._reader = FrameReader(plan.tensors)
        self._baselines = Baselines(len(plan.pairs))
        if self._warns:
            warn(plan.warnings)

    # Access.

    @property
    def edited_tokens(self) -> list[int]:
        """Token ids of the edited prompt of the first pair."""
        plan = self._require_plan()
        pair = plan.pairs[0]
        return list((pair.corrupted if plan.edited_run == pb.SWEPT_RUN_CORRUPTED else pair.clean).ids)

    @property
    def names(self) -> list[str]:
        """Names of the scores. The second of the same name ends with #2."""
        return unique_names(map(self._name, self._require_plan().tensors.tensors))

    def top_edges(self, count: int = 10) -> list[tuple[str, str, float]]:
        """The strongest edges as (sender, receiver, score), by the mean over pairs.

        Raises:
            InvalidRequestError: edges were not scored.
        """
        scores = self[EDGES]
        scores = scores.mean("pair") if "pair" in scores.dims else scores
        return [(place["sender"], place["receiver"], value) for place, value in scores.top(count)]

    def top(self, count: int = 10) -> list[tuple[str, dict[str, Any], float]]:
        """The strongest scores of all as (name, coordinates, score)."""
        found = [(name, place, value) for name in self.names for place, value in self[name].top(count)]
        return sorted(found, key=lambda entry: -abs(entry[2]))[:count]

    @property
    def completeness_gap(self) -> float:
        """The largest share of a pair's change that integrated gradients do not explain.

        Raises:
            InvalidRequestError: no inputs were scored.
        """
        if not self.completeness:
            raise InvalidRequestError("only integrated gradients have a gap", field="method")
        return max(abs(total.attributed - total.change) / max(abs(total.change), 1e-30) for total in self.completeness)

    def table(self) -> Table:
        """The strongest scores."""
        return show(self, "table")

    def __repr__(self) -> str:
        return f"AttributionResult({self.attribution!r}{'' if self.end else ', not complete'})"

    def _name(self, spec: tensor_pb2.TensorSpec) -> str:
        if _A.AXIS_SENDER in spec.axes:
            return EDGES
        if self.attribution.request.WhichOneof("method") == INPUTS:
            return INPUTS
        if spec.dictionary_id:
            return features_of(spec.dictionary_id)
        side = ".input" if spec.site.side == site_pb2.SIDE_INPUT else ""
        return f"{spec.site.component}{side}"

    def _scores(self, index: int) -> Scores:
        plan, request = self._require_plan(), self.attribution.request
        spec = plan.tensors.tensors[index]
        rows = range(len(plan.pairs)) if request.each_pair else (0,)
        missing = [row for row in rows if (index, row) not in self._tensors]
        if missing:
            raise StreamingError(f"scores of pair {missing[0]} have not come")
        shapes = {self._tensors[index, row].shape for row in rows}
        if len(shapes) > 1:
            raise InvalidRequestError(
                "prompts differ in length: score them in calls of their own, or not by position", field="each_pair"
            )
        values = np.stack([self._tensors[index, row] for row in rows])
        dims = [_DIMS.get(axis, _UNIT) for axis in list(spec.axes)[1:]]
        coords: dict[str, list[Any]] = {
            dim: list(range(size)) for dim, size in zip(dims, values.shape[1:], strict=True)
        }
        if "layer" in coords:
            coords["layer"] = next(list(entry.layers) for entry in plan.layers if entry.plan_index == index)
        if "sender" in coords:
            coords |= {
                "sender": list(map(sender_name, plan.senders)),
                "receiver": list(map(receiver_name, plan.receivers)),
            }
            for column, receiver in enumerate(plan.receivers):
                values[:, receiver.sender_count :, column] = np.nan
        clean, corrupted = self._baselines.clean, self._baselines.corrupted
        if request.each_pair and len(rows) > 1:
            dims, coords = ["pair", *dims], {"pair": list(rows), **coords}
        else:
            values = values[0]
            clean, corrupted = (run.mean(keepdims=True) for run in (clean, corrupted))
        if request.metric.normalised:
            clean, corrupted = np.ones_like(clean), np.zeros_like(corrupted)
        return Scores(
            name=self._name(spec),
            metric=request.metric.WhichOneof("kind") or "",
            values=values,
            dims=tuple(dims),
            coords=coords,
            clean=clean,
            corrupted=corrupted,
            is_normalised=request.metric.normalised,
            unedited=np.zeros_like(clean),
            tokens=tuple(self.tokens),
            is_change=True,
        )

    def _require_plan(self) -> pb.AttributionPlan:
        if self.plan is None:
            raise InvalidRequestError("the attribution has not begun: it has no scores", field="result")
        return self.plan

    # Storing.

    def to_json(self) -> dict[str, Any]:
        """Attribution, plan and scores as JSON. float32 values are exact."""
        return {
            "attribution": self.attribution.to_json(),
            "plan": json_format.MessageToDict(self._require_plan(), preserving_proto_field_name=True),
            "end": json_format.MessageToDict(self.end or pb.AttributionEnd(), preserving_proto_field_name=True),
            "tokens": self.tokens,
            **self._baselines.to_json(),
            "completeness": [json_format.MessageToDict(total) for total in self.completeness],
            "scores": [
                {"plan_index": index, "pair": row, "values": tensor.tolist()}
                for (index, row), tensor in sorted(self._tensors.items())
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AttributionResult:
        """Reads the result of `to_json`.

        Raises:
            InvalidRequestError: a field is missing or malformed.
        """
        try:
            result = cls(Attribution.from_json(value["attribution"]))
            result._on_plan(json_format.ParseDict(value["plan"], pb.AttributionPlan()))
            result.end = json_format.ParseDict(value["end"], pb.AttributionEnd())
            result.tokens = list(value["tokens"])
            result._baselines = Baselines.from_json(value, len(result._require_plan().pairs))
            result.completeness = [json_format.ParseDict(each, pb.Completeness()) for each in value["completeness"]]
            result._tensors = {
                (int(each["plan_index"]), int(each["pair"])): np.array(each["values"], np.float32)
                for each in value["scores"]
            }
        except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
            raise InvalidRequestError(f"this is no result of an attribution: {error!r}", field="result") from None
        return result
