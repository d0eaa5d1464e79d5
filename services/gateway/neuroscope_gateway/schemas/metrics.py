"""Metrics: how runs are scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neuroscope.interventions.tensor_json import TensorForm, to_expression
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.strict_model import StrictModel
from neuroscope_gateway.schemas.prompts import Token, token_message
from neuroscope_gateway.schemas.sweep_axes import Index


class BaseMetric(StrictModel):
    """A metric of one run."""

    kind: Literal[
        "logit_difference", "log_probability", "probability", "rank", "kl_divergence", "cross_entropy", "projection"
    ] = "logit_difference"
    """The kind of metric."""
    answers: list[Token] = Field([])
    """The correct token, one for all pairs or one for each; not for kl_divergence, cross_entropy and projection."""
    others: list[Token] = Field([])
    """The wrong token, one for all pairs or one for each; for logit_difference."""
    direction: TensorForm | None = None
    """A vector (d_model,); for projection."""

    def to_message(self) -> pb.Metric:
        """This object as a message of the contract."""
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
    """A term of a weighted sum."""

    weight: float = 1.0
    metric: BaseMetric


class Metric(BaseMetric):
    """How a run is scored."""

    terms: list[WeightedMetric] = Field([], max_length=64)
    """A weighted sum of metrics instead of `kind`."""
    positions: list[Index] = Field([])
    """Positions that are scored; default: the last one, for cross_entropy all with a next token."""
    normalised: bool = False
    """Scales values so that the corrupted run is 0 and the clean run 1."""

    def to_message(self) -> pb.Metric:
        """This object as a message of the contract."""
        message = super().to_message()
        if self.terms:
            terms = [pb.WeightedMetric(weight=term.weight, metric=term.metric.to_message()) for term in self.terms]
            message = pb.Metric(weighted_sum=pb.WeightedSum(terms=terms))
        message.positions.extend(self.positions)
        message.normalised = self.normalised
        return message
