"""Circuits: requests and responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.analysis.circuit_requests import evaluation_options
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
    """The common parameters of discovery and evaluation."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    dataset: DatasetName | None = None
    """A built-in dataset from the literature."""
    pairs: Annotated[list[AnsweredPair], Field(min_length=1, max_length=_PAIRS)] | None = None
    """Your own pairs instead of a dataset."""
    pair_count: Annotated[int, Field(ge=1, le=_PAIRS)] | None = None
    """Number of pairs; default: 64 of a dataset, all of your own."""
    seed: Seed = 0
    """Seed of the dataset."""
    drop: bool = False
    """Drops your own pairs that do not fit the tokenizer; otherwise they are errors."""
    metric: Metric | None = None
    """How runs are scored; default: the logit difference of answer and other at the last position."""
    curve: bool = False
    """Measures the faithfulness curve over circuit sizes, with CPR and CMD."""
    curve_sizes: list[Fraction] = Field([], max_length=64)
    """The sizes of the curve as shares of the edges; default: those of MIB."""
    completeness: bool = True
    """Measures completeness: the metric without the circuit."""
    minimality: bool = False
    """Measures minimality: the circuit without each of its edges."""
    minimality_bound: Annotated[float, Field(ge=0)] = 0.0
    """Minimum loss of faithfulness that makes an edge necessary; 0: 0.01."""
    format: CircuitFormat | None = None
    """Returns the circuit as a file of this format; not with `stream`."""
    stream: bool = False
    """Returns Server-Sent Events: plan, progress, partial results, and the result."""

    def check_consistency(self) -> None:
        """Checks parameters that depend on each other.

        Raises:
            InvalidRequestError: both or none of dataset and pairs are set, or both format and stream.
        """
        if (self.dataset is None) == (self.pairs is None):
            raise InvalidRequestError("set either dataset or pairs", field="dataset", valid=("dataset", "pairs"))
        if self.format is not None and self.stream:
            raise InvalidRequestError("format needs stream: false", field="format")

    @property
    def dataset_source(self) -> Any:
        """The dataset in the SDK's form."""
        return self.dataset if self.pairs is None else [pair.model_dump() for pair in self.pairs]

    @property
    def sdk_metric(self) -> MetricForm | None:
        """The metric in the SDK's form."""
        return None if self.metric is None else MetricForm(self.metric.to_message())

    def evaluation_options(self, *, skip: bool = False, resample_count: int | None = None) -> pb.EvaluationOptions:
        """The measurements of the evaluation."""
        return evaluation_options(
            skip=skip,
            curve=self.curve,
            curve_sizes=self.curve_sizes,
            completeness=self.completeness,
            minimality=self.minimality,
            minimality_bound=self.minimality_bound,
            resample_count=resample_count,
        )


class DiscoveryRequest(CircuitRequest):
    """A circuit discovery."""

    method: CircuitMethod = "eap-ig"
    """The method that scores edges or nodes."""
    size: Fraction | None = None
    """Size of the circuit as a share of the graph's edges. Only one of size, count, threshold and faithfulness;
    default: a faithfulness of 0.9."""
    count: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    """Size of the circuit as a number of edges or nodes."""
    threshold: Annotated[float, Field(ge=0)] | None = None
    """Minimum magnitude of a score; for acdc its threshold."""
    faithfulness: Fraction | None = None
    """Finds the smallest circuit that reaches this faithfulness. The sizes that it measures become the curve."""
    granularity: Literal["edges", "nodes"] | None = None
    """Whether edges or nodes are selected; default: what the method scores."""
    steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Number of interpolated inputs of eap-ig; 0: 5."""
    into: Literal["clean", "corrupted"] | None = None
    """The run that is patched; default: the method's own."""
    prune: bool = True
    """Removes edges that are on no path from input to logits."""
    test: bool = True
    """Returns `is_found: false` if the effect is not significant."""
    significance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Significance level; 0: 0.001."""
    least_effect: Annotated[float, Field(ge=0)] = 0.0
    """Minimum effect in units of the metric; 0: the rounding error."""
    evaluate: bool = True
    """Evaluates the circuit."""
    resample_count: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Bootstrap resamples of the pairs for the circuit's stability; default: 100."""
    name: Text = ""
    """Name of the circuit; empty: dataset and method."""


class EvaluationRequest(CircuitRequest):
    """A circuit evaluation."""

    circuit: dict[str, Any]
    """The circuit: from discovery, or in the JSON formats of MIB or chuk-lazarus."""


class ExportRequest(StrictModel):
    """A conversion of a circuit to another format."""

    circuit: dict[str, Any]
    """The circuit: from discovery, or in the JSON formats of MIB or chuk-lazarus."""
    format: CircuitFormat = "json"
    """The target format."""


class DiscoveredCircuit(BaseModel):
    """The result of a circuit discovery."""

    object: Literal["circuit_discovery"] = "circuit_discovery"
    model: str
    is_found: bool
    """Whether there is a significant effect."""
    reason: str
    """Why nothing was found; otherwise empty."""
    circuit: dict[str, Any]
    """The circuit with provenance and evaluation: the contract's `Circuit` in protobuf's JSON."""
    dropped: dict[str, int]
    """Numbers of dropped pairs by reason."""
    warnings: list[str]
    token_count: int


class EvaluatedCircuit(BaseModel):
    """The result of a circuit evaluation."""

    object: Literal["circuit_evaluation"] = "circuit_evaluation"
    model: str
    circuit: dict[str, Any]
    """The circuit with its evaluation."""
    dropped: dict[str, int]
    """Numbers of dropped pairs by reason."""
    warnings: list[str]
    token_count: int
    elapsed_seconds: float
