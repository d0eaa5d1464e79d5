"""Interventions as JSON that people write: the REST form, which files of the command line have too.

    {"layer_name": "transformer.h.5", "component": "attention", "heads": [3], "action": "zero"}
    {"layer_name": "transformer.h.5", "component": "mlp", "positions": [-1], "action": "scale", "factor": 0.5}
    {"layer_name": "transformer.h.5", "component": "residual", "steps": {"start": 1},
     "action": "add", "direction": {"tensor_id": "..."}, "coefficient": 4}
    {"layer_name": "transformer.h.5", "component": "residual", "expression": {...}}
    {"action": "features", "dictionary_id": "sae", "features": [7], "value": 5}

`expression` is the contract's Expression in protobuf's canonical JSON; a whole Intervention in that form, which
`Intervention.to_json` gives, is taken too. The models of `intervention_actions` are the one definition of the fields;
the gateway's OpenAPI is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, cast

from pydantic import Discriminator, RootModel, Tag, TypeAdapter, ValidationError

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.interventions import checks
from neuroscope.interventions.actions import (
    ACTIONS,
    Add,
    Clamp,
    Computed,
    Features,
    Mean,
    Noise,
    ProjectOut,
    Replace,
    Scale,
    Zero,
)
from neuroscope.interventions.form import parsed
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.vocabulary.strict_model import INVALID, error_location, error_reason, param_path


class Exact(RootModel[dict[str, Any]]):
    """An Intervention of intervention.proto in protobuf's JSON: `site`, `select`, `value`."""

    def to_message(self) -> pb.Intervention:
        """The message, as `Form.to_message`."""
        message = parsed(self.root, pb.Intervention(), "")
        checks.check(message, "")
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
        MLXIntegrationError: as `checks.check`. `field` names the field of the JSON object.
    """
    try:
        form = _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = param_path((field, *error_location(first)))
        raise InvalidRequestError(f"{where}: {error_reason(first)}", field=where) from None
    try:
        return form.to_message()
    except MLXIntegrationError as error:
        error.field = f"{field}.{form.param(error.field)}".rstrip(".")
        raise


_ADAPTER: TypeAdapter[Any] = TypeAdapter(InterventionForm)
