"""The result of a sweep, filled while it runs: the values of all cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from neuroscope.activations.stream import warn
from neuroscope.display import show
from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.experiments.attribution import features_of
from neuroscope.experiments.baselines import Baselines
from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.named_scores import NamedScores, from_json_values, to_json_values, unique_names
from neuroscope.experiments.scores import Scores, Texts
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.wire.codec import Event

if TYPE_CHECKING:
    from rich.table import Table

METHOD_NAMES = {
    pb.SWEEP_METHOD_PLAIN: "one by one",
    pb.SWEEP_METHOD_LAYERS: "layers reused",
    pb.SWEEP_METHOD_LAYERS_AND_POSITIONS: "layers and positions reused",
}


_RUNS = ("clean", "corrupted")


class SweepResult(NamedScores):
    """The values of a sweep. An interrupted sweep can be continued: `client.sweep(..., result=result)`.

    `result["head_output"]` has the `Scores` of a grid, `result["cells"]` those of single cells.

    Args:
        experiment: the experiment.
        warns: whether to issue the plan's warnings as Python warnings.
    """

    def __init__(self, experiment: Experiment, *, warns: bool = True) -> None:
        self.experiment = experiment
        self._warns = warns
        self.plan: pb.SweepPlan | None = None
        """The service's plan; None before it is received."""
        self.end: pb.SweepEnd | None = None
        """The last message; None until the sweep is complete."""
        self.tokens: list[str] = []
        """Tokens of the first edited prompt as text."""
        self._values: NDArray[np.float32] = np.empty(0, np.float32)
        self._baselines = Baselines()
        self._texts: dict[int, pb.GeneratedText] = {}
        """Generated texts by patch."""
        self._unedited_texts: dict[tuple[str, int], pb.GeneratedText] = {}
        """Generated texts of unedited runs by run and pair."""

    # Receiving.

    def request(self) -> pb.RunSweepRequest:
        """The request for the remaining patches."""
        request = pb.RunSweepRequest()
        request.CopyFrom(self.experiment.request)
        known = set(request.done_patches) | set(np.flatnonzero(np.isfinite(self._values)).tolist())
        del request.done_patches[:]
        request.done_patches.extend(sorted(known))
        return request

    def feed(self, event: Event) -> pb.RunSweepResponse:
        """Processes an event of the stream, and returns it.

        Raises:
            StreamingError: the event belongs to another kind of call, or to another sweep.
        """
        if not isinstance(event, pb.RunSweepResponse):
            raise StreamingError("a sweep's stream carries no frames")
        match event.WhichOneof("event"):
            case "plan":
                self._on_plan(event.plan)
            case "baseline":
                self._baselines.feed(event.baseline)
                if event.baseline.HasField("clean_text"):
                    self._unedited_texts["clean", event.baseline.pair] = event.baseline.clean_text
                if event.baseline.HasField("corrupted_text"):
                    self._unedited_texts["corrupted", event.baseline.pair] = event.baseline.corrupted_text
            case "values":
                self._values[list(event.values.patches)] = event.values.values
                # Without generation there are no texts.
                self._texts.update(zip(event.values.patches, event.values.texts, strict=False))
            case "end":
                self.end = event.end
            case _:
                pass
        return event

    def finish(self) -> SweepResult:
        """Returns the result after the end of the stream.

        Raises:
            StreamingError: the stream ended too early.
        """
        if self.end is None:
            raise StreamingError("the sweep ended before its last message; pass its result to go on with it")
        return self

    def _on_plan(self, plan: pb.SweepPlan) -> None:
        count = plan.cell_count * len(plan.pairs)
        if self.plan is None:
            self._values = np.full(count, np.nan, np.float32)
            self._baselines = Baselines(len(plan.pairs))
        elif self._values.size != count:
            raise StreamingError("the service plans another sweep than the one that was interrupted")
        self.plan, self.end = plan, None
        if self._warns:
            warn(plan.warnings)

    # Access.

    @property
    def is_complete(self) -> bool:
        """Whether every cell has a value."""
        return self.plan is not None and bool(np.isfinite(self._values).all())

    @property
    def edited_tokens(self) -> list[int]:
        """Token ids of the first edited prompt."""
        plan = self._require_plan()
        pair = plan.pairs[0]
        return list((pair.corrupted if plan.edited_run == pb.SWEPT_RUN_CORRUPTED else pair.clean).ids)

    @property
    def names(self) -> list[str]:
        """Names of the grids, in the order of the experiment. The second of the same name ends with #2."""
        return unique_names(map(self._name, range(len(self._require_plan().grids))))

    def table(self) -> Table:
        """A row for each grid with its strongest cell."""
        return show(self, "table")

    def __repr__(self) -> str:
        if self.plan is None:
            return f"SweepResult({self.experiment!r}, not begun)"
        done = int(np.isfinite(self._values).sum())
        return f"SweepResult({', '.join(self.names)}: {done} of {self._values.size} patches)"

    def _name(self, index: int) -> str:
        grids = self.experiment.request.grids
        if index < len(grids) and grids[index].HasField("features"):
            return features_of(grids[index].features.dictionary_id)
        return self._require_plan().grids[index].component or "cells"

    def _scores(self, index: int) -> Scores:
        plan = self._require_plan()
        shape = plan.grids[index]
        dims = [axis.name for axis in shape.axes]
        coords: dict[str, list[Any]] = {axis.name: list(axis.labels) or list(axis.indices) for axis in shape.axes}
        extents = [len(coords[dim]) for dim in dims]
        of_pairs = self._values.reshape(len(plan.pairs), plan.cell_count)
        values = of_pairs[:, shape.first_cell : shape.first_cell + math.prod(extents)].reshape(-1, *extents)
        if len(plan.pairs) > 1:
            dims, coords = ["pair", *dims], {"pair": list(range(len(plan.pairs))), **coords}
        else:
            values = values[0]
        metric = self.experiment.request.metric
        edits_corrupted = plan.edited_run == pb.SWEPT_RUN_CORRUPTED
        unedited = self._baselines.corrupted if edits_corrupted else self._baselines.clean
        clean, corrupted = self._baselines.clean, self._baselines.corrupted
        if metric.normalised:
            clean, corrupted = np.ones_like(clean), np.zeros_like(corrupted)
            unedited = corrupted if edits_corrupted else clean
        return Scores(
            name=shape.component or "cells",
            metric=metric.WhichOneof("kind") or "",
            values=values,
            dims=tuple(dims),
            coords=coords,
            clean=clean,
            corrupted=corrupted,
            is_normalised=metric.normalised,
            unedited=unedited,
            tokens=tuple(self.tokens),
            texts=self._texts_of(shape.first_cell, values.shape) if self._unedited_texts else None,
        )

    def _texts_of(self, first_cell: int, shape: tuple[int, ...]) -> Texts:
        plan = self._require_plan()
        count, pairs = plan.cell_count, range(len(plan.pairs))
        cells = math.prod(shape) // len(pairs)
        patches = [pair * count + first_cell + cell for pair in pairs for cell in range(cells)]
        clean, corrupted = ([self._unedited_texts.get((run, pair)) for pair in pairs] for run in _RUNS)
        return Texts(
            _objects(map(self._texts.get, patches)).reshape(shape),
            _objects(clean),
            _objects(corrupted),
            _objects(corrupted if plan.edited_run == pb.SWEPT_RUN_CORRUPTED else clean),
        )

    def _require_plan(self) -> pb.SweepPlan:
        if self.plan is None:
            raise InvalidRequestError("the sweep has not begun: it has no values", field="result")
        return self.plan

    # Storing.

    def to_json(self) -> dict[str, Any]:
        """Experiment, plan and values as JSON. float32 values are exact; missing values are null."""
        plan = self._require_plan()
        return {
            "experiment": self.experiment.to_json(),
            "plan": json_format.MessageToDict(plan, preserving_proto_field_name=True),
            "tokens": self.tokens,
            **self._baselines.to_json(),
            "values": to_json_values(self._values),
            "texts": {patch: _to_dict(text) for patch, text in sorted(self._texts.items())},
            "unedited_texts": [
                {"run": run, "pair": pair, "text": _to_dict(text)}
                for (run, pair), text in sorted(self._unedited_texts.items())
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SweepResult:
        """Reads the result of `to_json`.

        Raises:
            InvalidRequestError: a field is missing or malformed.
        """
        try:
            result = cls(Experiment.from_json(value["experiment"]))
            result._on_plan(json_format.ParseDict(value["plan"], pb.SweepPlan()))
            result.tokens = list(value["tokens"])
            result._baselines = Baselines.from_json(value, len(result._require_plan().pairs))
            values = from_json_values(value["values"])
            if values.shape != result._values.shape:
                raise InvalidRequestError("values are not as many as the plan says", field="values")
            result._values = values
            result._texts = {int(patch): _from_dict(text) for patch, text in value.get("texts", {}).items()}
            result._unedited_texts = {
                (each["run"], int(each["pair"])): _from_dict(each["text"]) for each in value.get("unedited_texts", ())
            }
        except (KeyError, TypeError, ValueError, json_format.ParseError) as error:
            raise InvalidRequestError(f"this is no result of a sweep: {error!r}", field="result") from None
        return result


def _objects(values: Iterable[Any]) -> NDArray[np.object_]:
    """An object array of values that numpy would unpack."""
    listed = list(values)
    found = np.empty(len(listed), object)
    found[:] = listed
    return found


def _to_dict(text: pb.GeneratedText) -> dict[str, Any]:
    return json_format.MessageToDict(text, preserving_proto_field_name=True)


def _from_dict(value: Mapping[str, Any]) -> pb.GeneratedText:
    return json_format.ParseDict(dict(value), pb.GeneratedText())
