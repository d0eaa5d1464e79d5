"""Metrics as JSON: how runs are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroscope.interventions.tensor_json import TensorForm, to_expression
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.strict_model import StrictModel
from neuroscope_gateway.schemas.prompts import Token, token_message
from neuroscope_gateway.schemas.sweep_axes import Index


class BaseMetric(StrictModel):
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
                getattr(kind, name).extend(map(token_message, getattr(self, name)))
        if self.direction is not None and self.kind == "projection":
            message.projection.direction.CopyFrom(to_expression(self.direction).message.tensor)
        return message


class WeightedMetric(StrictModel):
    """A term of a sum."""

    weight: float = 1.0
    metric: BaseMetric


class Metric(BaseMetric):
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
