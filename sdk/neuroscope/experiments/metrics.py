"""Metrics that score a run.

    logit_diff(" Mary", " John")                      at the last position
    logit_diff([" Mary", " Tom"], [" John", " Ann"])  one for each pair of prompts
    prob(" Paris").at(-1)
    kl_divergence().at(*range(-5, 0))
    logit_diff(" Mary", " John").normalised()         0 for the corrupted run, 1 for the clean run
    log_prob(" Mary") - 0.5 * kl_divergence()         weighted sums at the same positions

A token is an id, or a text that is exactly one token, including its leading space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions.expressions import TensorLike, to_reference
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.token_choice import token_choice

Token: TypeAlias = "str | int"
Tokens: TypeAlias = "Token | Sequence[Token]"
"""One token for all pairs, or one for each pair."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number for a run: the mean of its values over positions.

    Args:
        message: the contract's message.
    """

    message: pb.Metric

    @property
    def name(self) -> str:
        """The kind of metric, such as logit_difference."""
        return self.message.WhichOneof("kind") or ""

    def at(self, *positions: SupportsIndex) -> Metric:
        """The same metric at other positions; negative positions count from the end."""
        changed = self._copied()
        del changed.message.positions[:]
        changed.message.positions.extend(position.__index__() for position in positions)
        return changed

    def normalised(self) -> Metric:
        """The same metric, scaled to 0 for the corrupted run and 1 for the clean run."""
        changed = self._copied()
        changed.message.normalised = True
        return changed

    def __mul__(self, weight: float) -> Metric:
        terms = [pb.WeightedMetric(weight=term.weight * weight, metric=term.metric) for term in self._terms()]
        return self._sum(terms)

    __rmul__ = __mul__

    def __neg__(self) -> Metric:
        return self * -1.0

    def __add__(self, other: Metric) -> Metric:
        if list(self.message.positions) != list(other.message.positions):
            raise InvalidRequestError("metrics of other positions have no sum", field="metric.positions")
        return self._sum([*self._terms(), *other._terms()])

    def __sub__(self, other: Metric) -> Metric:
        return self + -other

    def _terms(self) -> list[pb.WeightedMetric]:
        """The terms without positions, which belong to the sum."""
        if self.message.normalised:
            raise InvalidRequestError("the sum is normalised, not its terms", field="metric.normalised")
        if self.name == "weighted_sum":
            return list(self.message.weighted_sum.terms)
        metric = self._copied().message
        del metric.positions[:]
        return [pb.WeightedMetric(weight=1.0, metric=metric)]

    def _sum(self, terms: Sequence[pb.WeightedMetric]) -> Metric:
        return Metric(pb.Metric(weighted_sum=pb.WeightedSum(terms=terms), positions=self.message.positions))

    def _copied(self) -> Metric:
        message = pb.Metric()
        message.CopyFrom(self.message)
        return Metric(message)


def logit_diff(answer: Tokens, other: Tokens) -> Metric:
    """The logit of the answer minus that of another token (Wang et al. 2022, arXiv:2211.00593)."""
    difference = pb.LogitDifference(answers=_choices(answer, "answer"), others=_choices(other, "other"))
    return Metric(pb.Metric(logit_difference=difference))


def log_prob(answer: Tokens) -> Metric:
    """The natural log-probability of the answer."""
    return Metric(pb.Metric(log_probability=pb.LogProbability(answers=_choices(answer, "answer"))))


def prob(answer: Tokens) -> Metric:
    """The probability of the answer."""
    return Metric(pb.Metric(probability=pb.Probability(answers=_choices(answer, "answer"))))


def rank(answer: Tokens) -> Metric:
    """The number of tokens that are likelier than the answer; 0 if it is the likeliest."""
    return Metric(pb.Metric(rank=pb.Rank(answers=_choices(answer, "answer"))))


def kl_divergence() -> Metric:
    """KL(clean run || this run), in nats."""
    return Metric(pb.Metric(kl_divergence=pb.KlDivergence()))


def cross_entropy() -> Metric:
    """Mean cross-entropy of the prompt's next tokens, in nats."""
    return Metric(pb.Metric(cross_entropy=pb.CrossEntropy()))


def projection(direction: TensorLike) -> Metric:
    """The dot product of the last residual stream, before the final norm, with a direction (d_model,)."""
    return Metric(pb.Metric(projection=pb.Projection(direction=to_reference(direction))))


def _choices(tokens: Any, field: str) -> Iterable[pb.TokenChoice]:
    is_one = isinstance(tokens, str) or hasattr(tokens, "__index__")
    listed: list[Any] = [tokens] if is_one else list(tokens)
    return [token_choice(token, f"metric.{field}") for token in listed]
