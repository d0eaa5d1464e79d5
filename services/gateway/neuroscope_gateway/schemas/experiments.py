"""Sweeps as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from neuroscope.strict import MAX_INT32, Strict, Text
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, site_pb2

Index = Annotated[int, Field(ge=-MAX_INT32, le=MAX_INT32)]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Indices = Annotated[list[Index], Field(min_length=1, max_length=100_000)]
Prompt: TypeAlias = Annotated[Text, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]
"""A text, or token ids."""
Token: TypeAlias = Text | TokenId
"""A text that is exactly one token, or its id."""


class Together(Strict):
    """Indices that every cell selects together."""

    together: Indices


Axis: TypeAlias = Literal["each"] | Indices | Together
"""A cell for each index, one for each of these, or these together in every cell."""


class PromptPair(Strict):
    """Two prompts that differ in what the metric asks for."""

    clean: Prompt
    """The prompt with the behaviour."""
    corrupted: Prompt | None = None
    """The prompt without it; without one the clean run is ablated."""


class Resample(Strict):
    """What a reference prompt has at the same place."""

    resample: Annotated[int, Field(ge=0, lt=2**63)]
    """Seed of the draws."""


class SweptFeatures(Strict):
    """Features of a dictionary."""

    dictionary_id: Text = Field(min_length=1)
    axis: Axis = "each"


class Grid(Strict):
    """Cells as a product: layers x heads x positions x units x features."""

    component: Text = ""
    """Any name of a component; one that carries its layer sweeps that layer alone. Absent with features."""
    layers: Indices | None = None
    """A cell for each; absent: every layer that has the component."""
    heads: Axis | None = None
    """Absent: all together."""
    positions: Axis | None = None
    """Absent: all together. Negative ones count from the end."""
    units: Axis | None = None
    """Along the last axis: neurons, experts. Absent: all together."""
    features: SweptFeatures | None = None
    """Features in place of the whole activation of a component; they get a number or those of the other run."""
    value: Literal["other_run", "mean", "mean_by_position"] | float | Resample = "other_run"
    """What is put there: what the other run has, a mean over the references, a number."""

    def to_message(self) -> pb.SweepGrid:
        """As the contract carries it."""
        return pb.SweepGrid(
            site=site_pb2.Site(component=self.component) if self.component or self.features is None else None,
            layers=self.layers or (),
            heads=_axis(self.heads),
            positions=_axis(self.positions),
            units=_axis(self.units),
            value=self._value(),
            features=None
            if self.features is None
            else pb.SweepFeatures(dictionary_id=self.features.dictionary_id, axis=_axis(self.features.axis)),
        )

    def _value(self) -> pb.SweepValue:
        match self.value:
            case "other_run":
                return pb.SweepValue(other_run=pb.OtherRun())
            case "mean" | "mean_by_position":
                by_position = self.value == "mean_by_position"
                return pb.SweepValue(mean=pb.MeanOfReferences(by_position=by_position))
            case Resample():
                return pb.SweepValue(resample=pb.ResampleReference(seed=self.value.resample))
            case _:
                return pb.SweepValue(constant=self.value)


class Metric(Strict):
    """How a run is scored."""

    kind: Literal["logit_difference", "log_probability", "probability", "rank", "kl_divergence", "cross_entropy"] = (
        "logit_difference"
    )
    """What is measured."""
    answers: list[Token] = Field([])
    """The right token, for all pairs or for each; not of the last two kinds."""
    others: list[Token] = Field([])
    """The wrong token, for all pairs or for each; of logit_difference."""
    positions: list[Index] = Field([])
    """Absent: the last one, and of cross_entropy all that have a next token."""
    normalised: bool = False
    """Scales values: 0 the corrupted run, 1 the clean one."""

    def to_message(self) -> pb.Metric:
        """As the contract carries it."""
        message = pb.Metric(positions=self.positions, normalised=self.normalised)
        kind = getattr(message, self.kind)
        kind.SetInParent()
        for name in ("answers", "others"):
            if hasattr(kind, name):
                getattr(kind, name).extend(map(_token, getattr(self, name)))
        return message


class SweepRequest(Strict):
    """A sweep."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    pairs: Annotated[list[PromptPair], Field(min_length=1, max_length=256)]
    """The prompts."""
    references: list[Prompt] = Field([], max_length=256)
    """Prompts that stand for what is usual."""
    edited_run: Literal["clean", "corrupted"] | None = None
    """Absent: the corrupted one, if there is one."""
    grids: Annotated[list[Grid], Field(min_length=1, max_length=64)]
    """What is swept."""
    metric: Metric
    """How runs are scored."""
    max_patches: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """A larger sweep is refused with the estimate; 0: the service's limit."""
    max_seconds: Annotated[float, Field(ge=0)] = 0.0
    """One that is estimated to take longer is refused; 0: no limit."""
    stream: bool = False
    """Answers with lines of JSON: the plan, values and progress as they come, the end."""

    def to_message(self) -> pb.RunSweepRequest:
        """As the contract carries it."""
        runs = {"clean": pb.SWEPT_RUN_CLEAN, "corrupted": pb.SWEPT_RUN_CORRUPTED, None: pb.SWEPT_RUN_UNSPECIFIED}
        return pb.RunSweepRequest(
            model_id=self.model or "",
            pairs=[
                pb.PromptPair(
                    clean=_prompt(pair.clean), corrupted=None if pair.corrupted is None else _prompt(pair.corrupted)
                )
                for pair in self.pairs
            ],
            references=map(_prompt, self.references),
            edited_run=runs[self.edited_run],
            grids=[grid.to_message() for grid in self.grids],
            metric=self.metric.to_message(),
            limits=pb.SweepLimits(max_patches=self.max_patches, max_seconds=self.max_seconds),
        )


class SweptGrid(BaseModel):
    """The values of a grid."""

    name: str
    """The component; a second grid of it ends with #2."""
    dims: list[str]
    """Axes of the values: pair (where there are several), layer, head, position, unit."""
    coords: dict[str, list[int | str]]
    """By axis, what its indices stand for."""
    values: list[Any]
    """Nested lists, an axis a level."""


class Sweep(BaseModel):
    """What a sweep found."""

    object: Literal["sweep"] = "sweep"
    model: str
    metric: str
    method: Literal["plain", "layers", "layers_and_positions"]
    """How patches were run."""
    reason: str
    """Why not in a faster way."""
    clean: list[float]
    """The metric of each pair's clean run, not normalised."""
    corrupted: list[float | None]
    """That of the corrupted run."""
    grids: list[SweptGrid]
    elapsed_seconds: float


def _axis(axis: Any) -> pb.SweepAxis | None:
    match axis:
        case None:
            return None
        case "each":
            return pb.SweepAxis(each=pb.EachIndex())
        case Together():
            return pb.SweepAxis(together=pb.Indices(indices=axis.together))
        case _:
            return pb.SweepAxis(one_by_one=pb.Indices(indices=axis))


def _prompt(prompt: str | list[int]) -> inference_pb2.Prompt:
    if isinstance(prompt, str):
        return inference_pb2.Prompt(text=prompt)
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=prompt))


def _token(token: str | int) -> pb.TokenChoice:
    return pb.TokenChoice(text=token) if isinstance(token, str) else pb.TokenChoice(id=token)
