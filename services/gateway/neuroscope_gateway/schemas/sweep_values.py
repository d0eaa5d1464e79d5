"""Replacement values of sweeps."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from google.protobuf import json_format
from pydantic import Field

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions.tensor_json import TensorForm, to_expression
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary.strict_model import StrictModel
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas.prompts import Seed


class ResampleValue(StrictModel):
    """The activation of a random reference prompt (resample ablation)."""

    resample: Seed
    """Seed of the draws."""

    def to_message(self) -> pb.SweepValue:
        """This object as a message of the contract."""
        return pb.SweepValue(resample=pb.ResampleReference(seed=self.resample))


class NoiseValue(StrictModel):
    """The activation plus Gaussian noise."""

    noise: Annotated[float, Field(ge=0)]
    """The standard deviation."""
    seed: Seed = 0
    mean: float = 0.0
    unit: Literal["one", "own_deviation"] = "one"
    """The unit of noise and mean: `one`, or `own_deviation`, the standard deviation of each position's own entries."""

    def to_message(self) -> pb.SweepValue:
        """This object as a message of the contract."""
        units = {"one": intervention_pb2.NOISE_UNIT_ONE, "own_deviation": intervention_pb2.NOISE_UNIT_OWN_DEVIATION}
        noise = intervention_pb2.Noise(
            seed=self.seed, standard_deviation=self.noise, mean=self.mean, unit=units[self.unit]
        )
        return pb.SweepValue(noise=noise)


class ExpressionValue(StrictModel):
    """The value of an expression."""

    expression: dict[str, Any]
    """An `Expression` of intervention.proto in protobuf's JSON."""

    def to_message(self) -> pb.SweepValue:
        """This object as a message of the contract.

        Raises:
            InvalidRequestError: it is not an expression.
        """
        try:
            return pb.SweepValue(expression=json_format.ParseDict(self.expression, intervention_pb2.Expression()))
        except json_format.ParseError as error:
            raise InvalidRequestError(" ".join(str(error).split()), field="expression") from None


class TensorValue(StrictModel):
    """A tensor that replaces the activation."""

    tensor: TensorForm

    def to_message(self) -> pb.SweepValue:
        """This object as a message of the contract."""
        return pb.SweepValue(expression=to_expression(self.tensor).message)


SweepValue: TypeAlias = (
    Literal["other_run", "mean", "mean_by_position"]
    | float
    | ResampleValue
    | NoiseValue
    | ExpressionValue
    | TensorValue
)
"""The replacement: the other run's activation, a mean over the references, a number, or an object."""


def value_message(value: Any, path: str) -> pb.SweepValue:
    """A value as a message of the contract.

    Raises:
        MLXIntegrationError: it is invalid; `field` is its path.
    """
    match value:
        case "other_run":
            return pb.SweepValue(other_run=pb.OtherRun())
        case "mean" | "mean_by_position":
            return pb.SweepValue(mean=pb.MeanOfReferences(by_position=value == "mean_by_position"))
        case float():
            return pb.SweepValue(constant=value)
        case _:
            with rest_params(lambda _: path):
                return value.to_message()
