"""Sweeps as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from google.protobuf import json_format
from pydantic import BaseModel, Field

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments.edges import of_named, to_edge_grid
from neuroscope.experiments.patching import EDITED, METHODS
from neuroscope.experiments.paths import to_receivers, to_senders
from neuroscope.intervention_forms import InterventionForm
from neuroscope.strict import MAX_INT32, Strict, Text
from neuroscope.tensor_forms import TensorForm, to_expression
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, intervention_pb2, site_pb2
from neuroscope_gateway.requested_edits import RequestedInterventions

Index = Annotated[int, Field(ge=-MAX_INT32, le=MAX_INT32)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
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


class SubjectNoise(Strict):
    """Noise at the embeddings of a subject's tokens (Meng et al. 2022)."""

    subject: Annotated[Text, Field(min_length=1)]
    """A text that the prompt has once."""
    seed: Seed = 0
    standard_deviation: Annotated[float, Field(gt=0)] = 3.0
    """In units of that of each token's own embedding."""

    def to_message(self) -> pb.SubjectNoise:
        """As the contract carries it."""
        return pb.SubjectNoise(subject=self.subject, seed=self.seed, standard_deviation=self.standard_deviation)


class PromptPair(Strict):
    """Two prompts that differ in what the metric asks for."""

    clean: Prompt
    """The prompt with the behaviour."""
    corrupted: Prompt | None = None
    """The prompt without it; without one the clean run is ablated, unless edits or noise corrupt it."""
    corruptions: list[InterventionForm] = Field([], max_length=256)
    """Edits that make the corrupted run; of sweeps alone, and so is noise."""
    noise: SubjectNoise | None = None
    """Noise at the embeddings of a subject: causal tracing."""

    def to_message(self, path: str) -> pb.PromptPair:
        """As the contract carries it.

        Raises:
            MLXIntegrationError: an edit cannot be meant; names it below the path.
        """
        return pb.PromptPair(
            clean=_prompt(self.clean),
            corrupted=None if self.corrupted is None else _prompt(self.corrupted),
            corruptions=_edits(self.corruptions, f"{path}.corruptions"),
            noise=None if self.noise is None else self.noise.to_message(),
        )


class Resample(Strict):
    """What a reference prompt has at the same place."""

    resample: Seed
    """Seed of the draws."""

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it."""
        return pb.SweepValue(resample=pb.ResampleReference(seed=self.resample))


class Noisy(Strict):
    """The activation with Gaussian noise."""

    noise: Annotated[float, Field(ge=0)]
    """Its standard deviation."""
    seed: Seed = 0
    mean: float = 0.0
    unit: Literal["one", "own_deviation"] = "one"
    """What these are measured in: numbers as they are, or the standard deviation of each position's own entries."""

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it."""
        units = {"one": intervention_pb2.NOISE_UNIT_ONE, "own_deviation": intervention_pb2.NOISE_UNIT_OWN_DEVIATION}
        noise = intervention_pb2.Noise(
            seed=self.seed, standard_deviation=self.noise, mean=self.mean, unit=units[self.unit]
        )
        return pb.SweepValue(noise=noise)


class Computed(Strict):
    """The value of an expression."""

    expression: dict[str, Any]
    """An Expression of intervention.proto in protobuf's JSON."""

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it.

        Raises:
            InvalidRequestError: it is none.
        """
        try:
            return pb.SweepValue(expression=json_format.ParseDict(self.expression, intervention_pb2.Expression()))
        except json_format.ParseError as error:
            raise InvalidRequestError(" ".join(str(error).split()), field="expression") from None


class Constant(Strict):
    """A tensor that takes the activation's place."""

    tensor: TensorForm

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it."""
        return pb.SweepValue(expression=to_expression(self.tensor).message)


Value: TypeAlias = Literal["other_run", "mean", "mean_by_position"] | float | Resample | Noisy | Computed | Constant
"""What is put there: what the other run has, a mean over the references, a number, or what an object says."""


def value_message(value: Any, path: str) -> pb.SweepValue:
    """A value as the contract carries it.

    Raises:
        MLXIntegrationError: it cannot be meant; names it below the path.
    """
    match value:
        case "other_run":
            return pb.SweepValue(other_run=pb.OtherRun())
        case "mean" | "mean_by_position":
            return pb.SweepValue(mean=pb.MeanOfReferences(by_position=value == "mean_by_position"))
        case float():
            return pb.SweepValue(constant=value)
        case _:
            try:
                return value.to_message()
            except MLXIntegrationError as error:
                error.field = path
                raise


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
    value: Value = "other_run"
    """What is put there."""
    layer_window: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Layers around its own that each cell edits together."""

    def to_message(self, path: str) -> pb.SweepGrid:
        """As the contract carries it."""
        return pb.SweepGrid(
            site=site_pb2.Site(component=self.component) if self.component or self.features is None else None,
            layers=self.layers or (),
            heads=_axis(self.heads),
            positions=_axis(self.positions),
            units=_axis(self.units),
            value=value_message(self.value, f"{path}.value"),
            layer_window=self.layer_window,
            features=None
            if self.features is None
            else pb.SweepFeatures(dictionary_id=self.features.dictionary_id, axis=_axis(self.features.axis)),
        )


class PathGrid(Strict):
    """Direct paths, senders x receivers (Wang et al. 2022)."""

    senders: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    """input, a3.h5, a3, m3; heads and mlps are those of every layer."""
    receivers: Annotated[list[Text | list[Text]], Field(min_length=1, max_length=10_000)] = Field(["logits"])
    """a9.h6<q>, a9.h6<k>, a9.h6<v>, m9, logits; those in a list of their own read together."""
    sender_positions: Indices | None = None
    """Where senders' outputs are replaced; absent: everywhere."""
    receiver_positions: Indices | None = None
    """Where receivers read them; absent: everywhere."""
    recompute_mlps: bool = False
    """MLPs between are computed again, so that paths go through them, too."""
    value: Value = "other_run"
    """What senders write instead."""

    def to_message(self, path: str) -> pb.PathGrid:
        """As the contract carries it.

        Raises:
            InvalidRequestError: a name means nothing.
        """
        try:
            senders = to_senders(self.senders, self.sender_positions)
            receivers = to_receivers(self.receivers, self.receiver_positions)
        except InvalidRequestError as error:
            error.field = f"{path}.{error.field}"
            raise
        value = value_message(self.value, f"{path}.value")
        return pb.PathGrid(senders=senders, receivers=receivers, value=value, recompute_mlps=self.recompute_mlps)


class EdgeCell(Strict):
    """A set of edges."""

    name: Text = ""
    """In results."""
    edges: Annotated[list[Text], Field(max_length=100_000)]
    """Such as a0.h3->m1, input->a1.h0<q>, m1->logits; none: nothing is changed."""


class EdgeGrid(Strict):
    """Sets of edges of the model's graph, a cell each: over its changed edges a receiver reads what senders write with
    the value, all else is computed anew."""

    cells: Annotated[list[EdgeCell], Field(min_length=1, max_length=10_000)] | None = None
    """The changed edges of each cell; absent: each edge of the graph alone."""
    value: Value = "other_run"
    """What senders write over changed edges."""

    def to_message(self, path: str) -> pb.EdgeGrid:
        """As the contract carries it.

        Raises:
            InvalidRequestError: a name means nothing.
        """
        value = value_message(self.value, f"{path}.value")
        if self.cells is None:
            return to_edge_grid(None, value)
        try:
            return of_named([(cell.name, cell.edges) for cell in self.cells], value)
        except InvalidRequestError as error:
            error.field = f"{path}.{error.field}"
            raise


class Cell(Strict):
    """A cell of its own: one edit or several at a time."""

    name: Text = ""
    """In results."""
    interventions: Annotated[list[InterventionForm], Field(min_length=1, max_length=256)]
    """The edits, as in chat requests; they select no rows and no steps."""

    def to_message(self, path: str) -> pb.SweepCell:
        """As the contract carries it."""
        return pb.SweepCell(name=self.name, interventions=_edits(self.interventions, f"{path}.interventions"))


class Generation(Strict):
    """What runs go on with."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    """At most so many; an end-of-sequence token ends a run before."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    seed: Seed = 0
    """The same draws for all runs."""
    stop: list[Text] = Field([], max_length=16)
    """Texts that end a run."""
    edited_tokens: Literal["generated", "prompt"] = "generated"
    """generated: cells of all positions edit each generated token, too; prompt: the prompt's positions alone."""

    def to_message(self) -> pb.SweepGeneration:
        """As the contract carries it."""
        sampling = inference_pb2.Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stop,
        )
        return pb.SweepGeneration(sampling=sampling, edited_tokens=EDITED[self.edited_tokens])


class Scored(Strict):
    """What is measured of a run."""

    kind: Literal[
        "logit_difference", "log_probability", "probability", "rank", "kl_divergence", "cross_entropy", "projection"
    ] = "logit_difference"
    """What is measured."""
    answers: list[Token] = Field([])
    """The right token, for all pairs or for each; not of the last three kinds."""
    others: list[Token] = Field([])
    """The wrong token, for all pairs or for each; of logit_difference."""
    direction: TensorForm | None = None
    """As wide as the residual stream; of projection."""

    def to_message(self) -> pb.Metric:
        """As the contract carries it."""
        message = pb.Metric()
        kind = getattr(message, self.kind)
        kind.SetInParent()
        for name in ("answers", "others"):
            if hasattr(kind, name):
                getattr(kind, name).extend(map(_token, getattr(self, name)))
        if self.direction is not None and self.kind == "projection":
            message.projection.direction.CopyFrom(to_expression(self.direction).message.tensor)
        return message


class WeightedMetric(Strict):
    """A term of a sum."""

    weight: float = 1.0
    metric: Scored


class Metric(Scored):
    """How a run is scored."""

    terms: list[WeightedMetric] = Field([], max_length=64)
    """In the place of all above: a sum of metrics, each times a number."""
    positions: list[Index] = Field([])
    """Absent: the last one, and of cross_entropy all that have a next token."""
    normalised: bool = False
    """Scales values: 0 the corrupted run, 1 the clean one."""

    def to_message(self) -> pb.Metric:
        """As the contract carries it."""
        message = super().to_message()
        if self.terms:
            terms = [pb.WeightedMetric(weight=term.weight, metric=term.metric.to_message()) for term in self.terms]
            message = pb.Metric(weighted_sum=pb.WeightedSum(terms=terms))
        message.positions.extend(self.positions)
        message.normalised = self.normalised
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
    grids: list[Grid] = Field([], max_length=64)
    """What is swept."""
    paths: list[PathGrid] = Field([], max_length=64)
    """Paths that are swept."""
    edges: list[EdgeGrid] = Field([], max_length=64)
    """Sets of edges that are swept."""
    cells: list[Cell] = Field([], max_length=10_000)
    """Further cells, one by one."""
    metric: Metric
    """How runs are scored."""
    max_patches: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """A larger sweep is refused with the estimate; 0: the service's limit."""
    max_seconds: Annotated[float, Field(ge=0)] = 0.0
    """One that is estimated to take longer is refused; 0: no limit."""
    batch_bytes: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Memory of the rows that run together; 0: the service's own."""
    done_patches: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([], max_length=1_000_000)
    """Patches that are not run, since their values are known."""
    method: Literal["auto", "plain", "layers", "layers_and_positions"] = "auto"
    """How it is run; auto: the fastest way that gives the plain way's numbers."""
    generation: Generation | None = None
    """Every run goes on with text."""
    criterion: Text | None = None
    """Judges these texts: function_call, json, refusal, contains:TEXT."""
    stream: bool = False
    """Answers with lines of JSON: the plan, values and progress as they come, the end."""

    def to_message(self) -> pb.RunSweepRequest:
        """As the contract carries it.

        Raises:
            MLXIntegrationError: an edit, a path or a value cannot be meant; `field` names it.
        """
        runs = {"clean": pb.SWEPT_RUN_CLEAN, "corrupted": pb.SWEPT_RUN_CORRUPTED, None: pb.SWEPT_RUN_UNSPECIFIED}
        return pb.RunSweepRequest(
            model_id=self.model or "",
            pairs=[pair.to_message(f"pairs[{index}]") for index, pair in enumerate(self.pairs)],
            references=map(_prompt, self.references),
            edited_run=runs[self.edited_run],
            grids=[grid.to_message(f"grids[{index}]") for index, grid in enumerate(self.grids)],
            paths=[grid.to_message(f"paths[{index}]") for index, grid in enumerate(self.paths)],
            edges=[grid.to_message(f"edges[{index}]") for index, grid in enumerate(self.edges)],
            cells=[cell.to_message(f"cells[{index}]") for index, cell in enumerate(self.cells)],
            metric=self.metric.to_message(),
            limits=pb.SweepLimits(
                max_patches=self.max_patches, max_seconds=self.max_seconds, batch_bytes=self.batch_bytes
            ),
            done_patches=self.done_patches,
            method=METHODS[self.method],
            generation=None if self.generation is None else self.generation.to_message(),
        )


class SweptGrid(BaseModel):
    """The values of a grid."""

    name: str
    """The component; a second grid of it ends with #2."""
    dims: list[str]
    """Axes of the values: pair (where there are several), layer, head, position, unit, sender, receiver, edge, cell."""
    coords: dict[str, list[int | str]]
    """By axis, what its indices stand for."""
    values: list[Any]
    """Nested lists, an axis a level; null where a patch has not been run."""
    texts: list[Any] | None = None
    """What runs went on with, in the same way, where the sweep generated."""
    scores: list[Any] | None = None
    """How these texts meet the criterion."""


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
    clean_texts: list[str] | None = None
    """What each pair's clean run went on with, where the sweep generated."""
    corrupted_texts: list[str | None] | None = None
    """What the corrupted run went on with."""
    grids: list[SweptGrid]
    """Grids, paths (`paths`), sets of edges (`edges`) and single cells (`cells`)."""
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


def _edits(forms: list[Any], path: str) -> list[intervention_pb2.Intervention]:
    try:
        return RequestedInterventions(forms).messages
    except MLXIntegrationError as error:
        error.field = error.field.replace("interventions", path, 1)
        raise


def _prompt(prompt: str | list[int]) -> inference_pb2.Prompt:
    if isinstance(prompt, str):
        return inference_pb2.Prompt(text=prompt)
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=prompt))


def _token(token: str | int) -> pb.TokenChoice:
    return pb.TokenChoice(text=token) if isinstance(token, str) else pb.TokenChoice(id=token)
