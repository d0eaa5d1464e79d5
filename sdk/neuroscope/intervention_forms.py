"""Interventions as JSON that people write: the REST form, which files of the command line have too.

    {"layer_name": "transformer.h.5", "component": "attention", "heads": [3], "action": "zero"}
    {"layer_name": "transformer.h.5", "component": "mlp", "positions": [-1], "action": "scale", "factor": 0.5}
    {"layer_name": "transformer.h.5", "component": "residual", "steps": {"start": 1},
     "action": "add", "direction": {"tensor_id": "..."}, "coefficient": 4}
    {"layer_name": "transformer.h.5", "component": "residual", "expression": {...}}
    {"action": "features", "dictionary_id": "sae", "features": [7], "value": 5}

`expression` is the contract's Expression in protobuf's canonical JSON; a whole Intervention in that form, which
`Intervention.to_json` gives, is taken too. The models here are the one definition of the fields; the gateway's OpenAPI
is made of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import Discriminator, Field, RootModel, Tag, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from neuroscope import intervention_checks
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.expressions import Expression, SelectedActivation, noise
from neuroscope.interventions import to_product, to_site
from neuroscope.selection import to_selector
from neuroscope.strict import INVALID, MAX_INT32, Strict, Text, path, place, reason
from neuroscope.tensor_forms import TensorForm, TensorOrNumber, to_expression
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2

_Message = TypeVar("_Message", bound=Message)
_Int32 = Annotated[int, Field(ge=-MAX_INT32 - 1, le=MAX_INT32)]
_Uint32 = Annotated[int, Field(ge=0, lt=2**32)]
_SITE_FIELDS = {"layer": "layer_name", "side": "is_input"}
_CHANGES = ("value", "factor", "added")


ACTIONS = ("zero", "scale", "add", "replace", "noise", "project_out", "clamp", "mean", "features")


class PositionRange(Strict):
    """Positions start, start + 1, ..., stop - 1."""

    start: _Int32 = 0
    """Negative: from the end of the prompt."""
    stop: _Int32 | None = None
    """Absent: to the end, generated tokens included."""


class StepRange(Strict):
    """Steps start, ..., stop - 1."""

    start: _Uint32 = 0
    stop: _Uint32 | None = None
    """Absent: to the end."""


def _form_of_numbers(value: Any) -> str:
    return "<range>" if isinstance(value, Mapping) else "<list>" if isinstance(value, list) else "<number>"


_BY_FORM = Discriminator(
    _form_of_numbers, custom_error_type=INVALID, custom_error_message="A number, or start and stop"
)


class _Form(Strict):
    """An edit: where, which part, and what becomes of it."""

    layer_name: Text | None = Field(default=None, examples=["transformer.h.5"])
    """The layer in any common spelling: transformer.h.5, model.layers.5, blocks.5; absent: every layer."""
    component: Text = Field(min_length=1, examples=["residual"])
    """As in hooks: residual, attention, mlp, ..., or a finer name. `attention` with heads means head_output."""
    is_input: bool | None = False
    """Edits what the component reads instead of what it writes."""
    intervention_id: Text | None = None
    """Name of the edit in errors."""
    heads: list[_Int32] | None = Field(default=None, min_length=1)
    """Heads, from 0; absent: all."""
    positions: (
        Annotated[
            Annotated[_Int32, Tag("<number>")]
            | Annotated[list[_Int32], Field(min_length=1), Tag("<list>")]
            | Annotated[PositionRange, Tag("<range>")],
            _BY_FORM,
        ]
        | None
    ) = None
    """Token positions, negative from the end of the prompt; absent: all, generated tokens included."""
    steps: Annotated[Annotated[_Uint32, Tag("<number>")] | Annotated[StepRange, Tag("<range>")], _BY_FORM] | None = None
    """Steps of the generation, 0 the prefill; absent: all."""
    rows: list[_Uint32] | None = Field(default=None, min_length=1)
    """Prompts of the request; absent: all."""

    operand: ClassVar[str] = "action"  # the field that errors about the value speak of

    def to_message(self) -> pb.Intervention:
        """The edit as the contract carries it.

        Raises:
            MLXIntegrationError: as `intervention_checks.check`; `field` is a path of the contract, see `param`.
        """
        positions, steps = self.positions, self.steps
        heads = self.heads or ()
        message = pb.Intervention(
            intervention_id=self.intervention_id or "",
            site=self.site_of(heads),
            select=to_selector(
                heads,
                slice(positions.start, positions.stop) if isinstance(positions, PositionRange) else positions,
                slice(steps.start, steps.stop) if isinstance(steps, StepRange) else steps,
                self.rows or (),
            ),
            value=self.value_of(SelectedActivation()).message,
        )
        intervention_checks.check(message, "")
        return message

    def site_of(self, heads: Sequence[int]) -> site_pb2.Site | None:
        """Where; None: left to the service."""
        return to_site(self.component, layer_name=self.layer_name or "", is_input=bool(self.is_input), heads=heads)

    def param(self, field: str) -> str:
        """The field of this form that a path in the contract's Intervention is about.

        Args:
            field: such as `.select.heads` or `.value.clamp.maximum`.

        Returns:
            The field's name; empty where the path is about the edit as a whole.
        """
        known = type(self).model_fields
        parts = [_SITE_FIELDS.get(part, part) for part in field.split(".")]
        about = self.operand if "value" in parts else ""
        return next((part for part in reversed(parts) if part in known and part != "value"), about)

    @abstractmethod
    def value_of(self, act: SelectedActivation) -> Expression:
        """What takes the activation's place."""


class Zero(_Form):
    """Sets the activation to 0: zero ablation."""

    action: Literal["zero"]

    def value_of(self, act: SelectedActivation) -> Expression:
        """0."""
        return act.zero()


class Scale(_Form):
    """Multiplies the activation by a number."""

    operand = "factor"
    action: Literal["scale"]
    factor: float

    def value_of(self, act: SelectedActivation) -> Expression:
        """act * factor."""
        return act * self.factor


class Add(_Form):
    """Adds a multiple of a direction: steering."""

    operand = "direction"
    action: Literal["add"]
    direction: TensorForm
    coefficient: float = 1.0

    def value_of(self, act: SelectedActivation) -> Expression:
        """act + coefficient * direction."""
        return act + to_product(self.coefficient, to_expression(self.direction))


class Replace(_Form):
    """Puts a tensor or a number in the activation's place: activation patching."""

    operand = "value"
    action: Literal["replace"]
    value: TensorOrNumber

    def value_of(self, act: SelectedActivation) -> Expression:
        """The value."""
        return act.replace(to_expression(self.value))


class Noise(_Form):
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


class ProjectOut(_Form):
    """Removes the activation's component along a direction."""

    operand = "direction"
    action: Literal["project_out"]
    direction: TensorForm

    def value_of(self, act: SelectedActivation) -> Expression:
        """act - (act · d) d / |d|²."""
        return act.project_out(to_expression(self.direction))


class Clamp(_Form):
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


class Mean(_Form):
    """Puts the mean of reference activations over batch and position in the activation's place: mean ablation."""

    operand = "reference"
    action: Literal["mean"]
    reference: TensorForm

    def value_of(self, act: SelectedActivation) -> Expression:
        """The mean."""
        return act.mean(to_expression(self.reference))


class Features(_Form):
    """Changes features of a dictionary, where it writes; its error and other features stay."""

    operand = "features"
    action: Literal["features"]
    component: Text = ""
    """Absent: the dictionary's own."""
    dictionary_id: Text = Field(min_length=1)
    features: list[_Uint32] = Field([], max_length=65536)
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


class Computed(_Form):
    """Puts the value of any expression in the activation's place."""

    operand = "expression"
    expression: dict[str, Any]
    """An Expression of intervention.proto in protobuf's JSON: activation, constant, tensor, binary, clamp, ..."""

    def value_of(self, act: SelectedActivation) -> Expression:
        """The expression."""
        return Expression(_parsed(self.expression, pb.Expression(), ".value"))


class Exact(RootModel[dict[str, Any]]):
    """An Intervention of intervention.proto in protobuf's JSON: `site`, `select`, `value`."""

    def to_message(self) -> pb.Intervention:
        """The message, as `_Form.to_message`."""
        message = _parsed(self.root, pb.Intervention(), "")
        intervention_checks.check(message, "")
        return message

    def param(self, field: str) -> str:
        """The fields are the contract's own."""
        return field.removeprefix(".")


def _tag(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    action = str(cast("Mapping[str, Any]", value).get("action", ""))
    return f"<{action}>" if action else next((f"<{name}>" for name in ("expression", "site") if name in value), "")


InterventionForm: TypeAlias = Annotated[
    Annotated[Zero, Tag("<zero>")]
    | Annotated[Scale, Tag("<scale>")]
    | Annotated[Add, Tag("<add>")]
    | Annotated[Replace, Tag("<replace>")]
    | Annotated[Noise, Tag("<noise>")]
    | Annotated[ProjectOut, Tag("<project_out>")]
    | Annotated[Clamp, Tag("<clamp>")]
    | Annotated[Mean, Tag("<mean>")]
    | Annotated[Features, Tag("<features>")]
    | Annotated[Computed, Tag("<expression>")]
    | Annotated[Exact, Tag("<site>")],
    Discriminator(
        _tag,
        custom_error_type=INVALID,
        custom_error_message="An edit has an action ({actions}), or an expression",
        custom_error_context={"param": "action", "actions": ", ".join(ACTIONS)},
    ),
]
"""An intervention in any of the forms."""


def from_json(value: Mapping[str, Any], field: str) -> pb.Intervention:
    """The message of an intervention in any of the forms.

    Args:
        value: the JSON object.
        field: its path in the request, for errors.

    Raises:
        InvalidRequestError: a field is missing, unknown or malformed.
        MLXIntegrationError: as `intervention_checks.check`. `field` names the field of the JSON object.
    """
    try:
        form = _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = path((field, *place(first)))
        raise InvalidRequestError(f"{where}: {reason(first)}", field=where) from None
    try:
        return form.to_message()
    except MLXIntegrationError as error:
        error.field = f"{field}.{form.param(error.field)}".rstrip(".")
        raise


def _parsed(value: dict[str, Any], message: _Message, field: str) -> _Message:
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise InvalidRequestError(" ".join(str(error).split()), field=field) from None


_ADAPTER: TypeAdapter[Any] = TypeAdapter(InterventionForm)
