"""Interventions by their action: what becomes of an activation. The one definition of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.interventions.expressions import Expression, SelectedActivation, noise, to_product
from neuroscope.interventions.form import Form, Uint32, parsed
from neuroscope.interventions.tensor_json import TensorForm, TensorOrNumber, to_expression
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.strict_model import INVALID, Text

ACTIONS = ("zero", "scale", "add", "replace", "noise", "project_out", "clamp", "mean", "features")
_CHANGES = ("value", "factor", "added")


class Zero(Form):
    """Sets the activation to 0: zero ablation."""

    action: Literal["zero"]

    def value_of(self, act: SelectedActivation) -> Expression:
        """0."""
        return act.zero()


class Scale(Form):
    """Multiplies the activation by a number."""

    operand = "factor"
    action: Literal["scale"]
    factor: float

    def value_of(self, act: SelectedActivation) -> Expression:
        """act * factor."""
        return act * self.factor


class Add(Form):
    """Adds a multiple of a direction: steering."""

    operand = "direction"
    action: Literal["add"]
    direction: TensorForm
    coefficient: float = 1.0

    def value_of(self, act: SelectedActivation) -> Expression:
        """act + coefficient * direction."""
        return act + to_product(self.coefficient, to_expression(self.direction))


class Replace(Form):
    """Puts a tensor or a number in the activation's place: activation patching."""

    operand = "value"
    action: Literal["replace"]
    value: TensorOrNumber

    def value_of(self, act: SelectedActivation) -> Expression:
        """The value."""
        return act.replace(to_expression(self.value))


class Noise(Form):
    """Adds independent normal noise, the same for the same seed."""

    operand = "standard_deviation"
    action: Literal["noise"]
    standard_deviation: float = Field(ge=0)
    """In units of the activation."""
    mean: float = 0.0
    seed: int = Field(default=0, ge=0, lt=2**64)

    def value_of(self, act: SelectedActivation) -> Expression:
        """act + noise."""
        return act + noise(self.standard_deviation, seed=self.seed, mean=self.mean)


class ProjectOut(Form):
    """Removes the activation's component along a direction."""

    operand = "direction"
    action: Literal["project_out"]
    direction: TensorForm

    def value_of(self, act: SelectedActivation) -> Expression:
        """act - (act · d) d / |d|²."""
        return act.project_out(to_expression(self.direction))


class Clamp(Form):
    """Limits every element to a range."""

    operand = "minimum"
    action: Literal["clamp"]
    minimum: float | None = None
    """Absent: none."""
    maximum: float | None = None
    """Absent: none."""

    def value_of(self, act: SelectedActivation) -> Expression:
        """The activation, limited."""
        return act.clamp(self.minimum, self.maximum)


class Mean(Form):
    """Puts the mean of reference activations over batch and position in the activation's place: mean ablation."""

    operand = "reference"
    action: Literal["mean"]
    reference: TensorForm

    def value_of(self, act: SelectedActivation) -> Expression:
        """The mean."""
        return act.mean(to_expression(self.reference))


class Features(Form):
    """Changes features of a dictionary, where it writes; its error and other features stay."""

    operand = "features"
    action: Literal["features"]
    component: Text = ""
    """Absent: the dictionary's own."""
    dictionary_id: Text = Field(min_length=1)
    features: list[Uint32] = Field([], max_length=65536)
    """Which; absent: all."""
    value: float | None = None
    """Sets them to this; 0 ablates."""
    factor: float | None = None
    """Multiplies them by this."""
    added: float | None = None
    """Adds this to them: their decoder directions with a coefficient."""
    reconstructs: bool = False
    """Drops the error: the reconstruction takes the activation's place."""

    @model_validator(mode="after")
    def _changes(self) -> Features:
        given = [name for name in _CHANGES if getattr(self, name) is not None]
        if len(given) > 1 or (not given and not self.reconstructs):
            message = "Features get one of value, factor and added, or reconstructs"
            raise PydanticCustomError(INVALID, message, {"param": given[1] if given else "value"})
        return self

    def site_of(self, heads: Sequence[int]) -> site_pb2.Site | None:
        """The dictionary's, unless a component is named."""
        return super().site_of(heads) if self.component else None

    def value_of(self, act: SelectedActivation) -> Expression:
        """The activation with the features changed."""
        changes = {name: value for name in _CHANGES if (value := getattr(self, name)) is not None}
        edits = [pb.FeatureEdit(features=self.features, **changes)] if changes else []
        changed = pb.FeatureEdits(dictionary_id=self.dictionary_id, edits=edits, reconstructs=self.reconstructs)
        return Expression(pb.Expression(features=changed), act.selected_heads)


class Computed(Form):
    """Puts the value of any expression in the activation's place."""

    operand = "expression"
    expression: dict[str, Any]
    """An Expression of intervention.proto in protobuf's JSON: activation, constant, tensor, binary, clamp, ..."""

    def value_of(self, act: SelectedActivation) -> Expression:
        """The expression."""
        return Expression(parsed(self.expression, pb.Expression(), ".value"))
