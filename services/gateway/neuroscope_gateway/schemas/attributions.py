"""Attributions as JSON: what is asked for, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.attribution import Attribution, attribution
from neuroscope.experiments.metrics import Metric as MetricForm
from neuroscope.vocabulary.strict_model import Strict, Text
from neuroscope_gateway.schemas.metrics import Metric
from neuroscope_gateway.schemas.prompt_pairs import PromptPair


class AttributionRequest(Strict):
    """An attribution."""

    model: Text | None = None
    """Id of a loaded model; absent: the one loaded first."""
    pairs: Annotated[list[PromptPair], Field(min_length=1, max_length=256)]
    """The prompts; all with a corrupted one, each as long as its clean one, or none."""
    metric: Metric
    """How a run is scored; all but rank have a gradient."""
    method: Literal["attribution-patching", "gradient-x-activation", "eap", "eap-ig", "integrated-gradients"] = (
        "attribution-patching"
    )
    """What is scored: places, edges, or positions of the prompt."""
    steps: Annotated[int, Field(ge=0, le=1024)] = 0
    """Inputs that gradients are averaged over; 0: 5 for eap-ig, 32 for integrated-gradients, else 1."""
    sites: list[Text] = Field([], max_length=64)
    """Places, such as head_output:head,position, or features=sae:position,unit of a dictionary; absent: outputs of
    heads and MLPs and the input, by position."""
    edited_run: Literal["clean", "corrupted"] | None = None
    """The run that gradients are those of; absent: the clean one, for integrated gradients the corrupted one."""
    each_pair: bool = False
    """Scores of every pair in place of their mean."""
    stream: bool = False
    """Answers with lines of JSON: the plan, progress, the end, the scores."""

    def to_attribution(self) -> Attribution:
        """As the SDK writes it."""
        for index, pair in enumerate(self.pairs):
            if pair.corruptions or pair.noise is not None:
                raise InvalidRequestError(
                    "an attribution compares runs of prompts: edits and noise make corrupted runs of sweeps alone",
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


class AttributedScores(BaseModel):
    """Scores along named axes: the change of the metric, were an activation that of the other run."""

    name: str
    """The component, edges or inputs."""
    dims: list[str]
    """Axes of the values: pair (where there are several), layer, position, head, unit, sender, receiver."""
    coords: dict[str, list[int | str]]
    """By axis, what its indices stand for."""
    values: list[Any]
    """Nested lists, an axis a level; null where a sender does not reach a receiver."""


class AttributedPair(BaseModel):
    """How much of a pair's change integrated gradients account for."""

    pair: int
    attributed: float
    change: float


class Attributed(BaseModel):
    """What an attribution found."""

    object: Literal["attribution"] = "attribution"
    model: str
    metric: str
    method: str
    steps: int
    """Inputs that gradients were taken at."""
    clean: list[float | None]
    """The metric of each pair's clean run, not normalised."""
    corrupted: list[float | None]
    """That of the corrupted run, or of a zero baseline."""
    scores: list[AttributedScores]
    completeness: list[AttributedPair]
    """Of integrated gradients."""
    elapsed_seconds: float
    forward_passes: float
    """Forward passes of the same batches that take as long; 0 where none was made."""
