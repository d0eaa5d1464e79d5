"""Attributions: request and response."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.attribution import Attribution, attribution
from neuroscope.experiments.metrics import Metric as MetricForm
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.schemas.arrays import NamedArray
from neuroscope_gateway.schemas.metrics import Metric
from neuroscope_gateway.schemas.prompt_pairs import PromptPair


class AttributionRequest(StrictModel):
    """A gradient-based attribution."""

    model: Text | None = None
    """Id of a loaded model; default: the model loaded first."""
    pairs: Annotated[list[PromptPair], Field(min_length=1, max_length=256)]
    """The prompts. Either every pair has a corrupted prompt with as many tokens, or none has one."""
    metric: Metric
    """How a run is scored; `rank` has no gradient."""
    method: Literal["attribution-patching", "gradient-x-activation", "eap", "eap-ig", "integrated-gradients"] = (
        "attribution-patching"
    )
    """The method. It scores nodes, edges (eap, eap-ig) or prompt positions (integrated-gradients)."""
    steps: Annotated[int, Field(ge=0, le=1024)] = 0
    """Number of interpolated inputs; 0: 5 for eap-ig, 32 for integrated-gradients, otherwise 1."""
    sites: list[Text] = Field([], max_length=64)
    """Sites to score, such as `head_output:head,position`, or `features=sae:position,unit` of a dictionary; default:
    outputs of heads and MLPs and the input, by position."""
    edited_run: Literal["clean", "corrupted"] | None = None
    """The run whose gradients are taken; default: clean, for integrated-gradients corrupted."""
    each_pair: bool = False
    """Returns scores of every pair instead of their mean."""
    stream: bool = False
    """Returns newline-delimited JSON: plan, progress, end, scores."""

    def to_attribution(self) -> Attribution:
        """The SDK's form of this request."""
        for index, pair in enumerate(self.pairs):
            if pair.corruptions or pair.noise is not None:
                raise InvalidRequestError(
                    "attributions need a corrupted prompt: edits and noise are for sweeps only",
                    field=f"pairs[{index}].{'corruptions' if pair.corruptions else 'noise'}",
                )
        pairs = [(pair.clean, pair.corrupted) for pair in self.pairs]
        others = [corrupted for _, corrupted in pairs if corrupted is not None]
        return attribution(
            [clean for clean, _ in pairs],
            others or None,
            MetricForm(self.metric.to_message()),
            method=self.method,
            steps=self.steps,
            places=self.sites,
            into=self.edited_run or "",
            each_pair=self.each_pair,
            model_id=self.model or "",
            bos=None,
        )


class PairCompleteness(BaseModel):
    """Completeness of integrated gradients for one pair: attributed and actual change of the metric."""

    pair: int
    attributed: float
    change: float


class AttributionResponse(BaseModel):
    """The result of an attribution."""

    object: Literal["attribution"] = "attribution"
    model: str
    metric: str
    method: str
    steps: int
    """Number of inputs whose gradients were taken."""
    clean: list[float | None]
    """The metric of each clean run, not normalised."""
    corrupted: list[float | None]
    """The metric of each corrupted run, or of the zero baseline."""
    scores: list[NamedArray]
    completeness: list[PairCompleteness]
    """For integrated-gradients."""
    elapsed_seconds: float
    forward_passes: float
    """The cost in forward passes of the same batches; 0 if none was measured."""
