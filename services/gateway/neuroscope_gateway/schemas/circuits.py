"""Circuits as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.analysis.circuit_request import evaluation_options
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.metrics import Metric as MetricForm
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.analysis_request import AnsweredPair
from neuroscope_gateway.schemas.metrics import Metric
from neuroscope_gateway.schemas.prompts import Seed

Fraction = Annotated[float, Field(gt=0, le=1)]
CircuitFormat = Literal["json", "mib", "lazarus", "graphml", "dot", "mermaid", "html", "svg", "png", "pdf"]
CircuitMethod = Literal[
    "activation-patching", "edge-patching", "path-patching", "attribution-patching", "eap", "eap-ig", "acdc"
]
DatasetName = Literal["ioi", "greater-than", "induction", "copying", "docstring", "facts", "arithmetic"]
_PAIRS = 4096


class CircuitRequest(StrictModel):
    """What searches and evaluations have in common."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    dataset: DatasetName | None = None
    """A dataset of the literature."""
    pairs: Annotated[list[AnsweredPair], Field(min_length=1, max_length=_PAIRS)] | None = None
    """Pairs of your own, in its place."""
    pair_count: Annotated[int, Field(ge=1, le=_PAIRS)] | None = None
    """How many of the dataset; absent: 64, and of your own all."""
    seed: Seed = 0
    """Of the dataset's generator."""
    drop: bool = False
    """Leaves out pairs of your own that do not fit the tokenizer; otherwise they are errors."""
    metric: Metric | None = None
    """How runs are scored; absent: the answer's logit minus that of the other token, at the last position."""
    curve: bool = False
    """Faithfulness of the strongest edges at several sizes, with CPR and CMD."""
    curve_sizes: list[Fraction] = Field([], max_length=64)
    """Which, as shares of the edges; absent: those of MIB."""
    completeness: bool = True
    """Measures what is outside of the circuit."""
    minimality: bool = False
    """Measures the circuit without each of its edges."""
    minimality_bound: Annotated[float, Field(ge=0)] = 0.0
    """Loss of faithfulness from which an edge is needed; 0: 0.01."""
    format: CircuitFormat | None = None
    """Answers with the circuit in a format, not with JSON about it; not with `stream`."""
    stream: bool = False
    """Answers with Server-Sent Events: plan, progress, findings as they come, and the result."""

    def check_consistency(self) -> None:
        """Refuses what does not go together.

        Raises:
            InvalidRequestError: there is not one of dataset and pairs, or a stream is to be a file.
        """
        if (self.dataset is None) == (self.pairs is None):
            raise InvalidRequestError("one of dataset and pairs is needed", field="dataset", valid=("dataset", "pairs"))
        if self.format is not None and self.stream:
            raise InvalidRequestError("format is of a whole answer, not of a stream", field="format")

    @property
    def dataset_source(self) -> Any:
        """The dataset as the SDK takes it."""
        return self.dataset if self.pairs is None else [pair.model_dump() for pair in self.pairs]

    @property
    def sdk_metric(self) -> MetricForm | None:
        """The metric as the SDK takes it."""
        return None if self.metric is None else MetricForm(self.metric.to_message())

    def evaluation_options(self, *, skip: bool = False) -> pb.EvaluationOptions:
        """What is measured."""
        return evaluation_options(
            skip=skip,
            curve=self.curve,
            curve_sizes=self.curve_sizes,
            completeness=self.completeness,
            minimality=self.minimality,
            minimality_bound=self.minimality_bound,
        )


class DiscoveryRequest(CircuitRequest):
    """A search for a circuit."""

    method: CircuitMethod = "eap-ig"
    """How edges, or nodes, are scored."""
    size: Fraction | None = None
    """Share of the graph's edges that the circuit has; of the four the default is a size of 0.2."""
    count: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    """So many of them."""
    threshold: Annotated[float, Field(ge=0)] | None = None
    """Those whose score's magnitude is at least this; of acdc, its threshold."""
    faithfulness: Fraction | None = None
    """As few as are needed for this."""
    granularity: Literal["edges", "nodes"] | None = None
    """Absent: what the method scores."""
    steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Of eap-ig, inputs between both runs; 0: 5."""
    into: Literal["clean", "corrupted"] | None = None
    """The run that is edited to score; absent: the method's own."""
    prune: bool = True
    """Leaves out edges that no path of the circuit leads through from input to logits."""
    test: bool = True
    """Answers "no effect" where effects are not more than noise."""
    significance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance of taking noise for an effect; 0: 0.001."""
    least_effect: Annotated[float, Field(ge=0)] = 0.0
    """Least effect that counts, in units of the metric; 0: what rounding can do."""
    evaluate: bool = True
    """Measures how well the circuit does."""
    name: Text = ""
    """Of the circuit; empty: made of dataset and method."""


class EvaluationRequest(CircuitRequest):
    """An evaluation of a circuit."""

    circuit: dict[str, Any]
    """The circuit: as a search answered it, or in the JSON layouts of MIB or chuk-lazarus."""


class ExportRequest(StrictModel):
    """A circuit in another format."""

    circuit: dict[str, Any]
    """As a search answered it, or in the JSON layouts of MIB or chuk-lazarus."""
    format: CircuitFormat = "json"
    """What it is to be."""


class DiscoveredCircuit(BaseModel):
    """What a search found."""

    object: Literal["circuit_discovery"] = "circuit_discovery"
    model: str
    is_found: bool
    """Whether there was something to find."""
    reason: str
    """Why there was not; empty where there was."""
    circuit: dict[str, Any]
    """The circuit: `Circuit` of the contract in protobuf's JSON, with provenance and evaluation."""
    dropped: dict[str, int]
    """Pairs of the dataset that were left out, by reason."""
    warnings: list[str]
    token_count: int


class EvaluatedCircuit(BaseModel):
    """What an evaluation measured."""

    object: Literal["circuit_evaluation"] = "circuit_evaluation"
    model: str
    circuit: dict[str, Any]
    """The circuit with its evaluation."""
    dropped: dict[str, int]
    """Pairs of the dataset that were left out, by reason."""
    warnings: list[str]
    token_count: int
    elapsed_seconds: float
