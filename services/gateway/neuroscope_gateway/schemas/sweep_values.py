"""What sweeps put in the place of activations, as JSON."""

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
    """What a reference prompt has at the same place."""

    resample: Seed
    """Seed of the draws."""

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it."""
        return pb.SweepValue(resample=pb.ResampleReference(seed=self.resample))


class NoiseValue(StrictModel):
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


class ExpressionValue(StrictModel):
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


class TensorValue(StrictModel):
    """A tensor that takes the activation's place."""

    tensor: TensorForm

    def to_message(self) -> pb.SweepValue:
        """As the contract carries it."""
        return pb.SweepValue(expression=to_expression(self.tensor).message)


SweepValue: TypeAlias = (
    Literal["other_run", "mean", "mean_by_position"]
    | float
    | ResampleValue
    | NoiseValue
    | ExpressionValue
    | TensorValue
)
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
            with rest_params(lambda _: path):
                return value.to_message()
