"""What every form of an intervention has: where it edits, and which part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import Discriminator, Field, Tag

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import checks
from neuroscope.interventions.expressions import Expression, SelectedActivation
from neuroscope.interventions.site import to_site
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary.selection import to_selector
from neuroscope.vocabulary.strict_model import INVALID, MAX_INT32, StrictModel, Text

_Message = TypeVar("_Message", bound=Message)
_Int32 = Annotated[int, Field(ge=-MAX_INT32 - 1, le=MAX_INT32)]
Uint32 = Annotated[int, Field(ge=0, lt=2**32)]
_SITE_FIELDS = {"layer": "layer_name", "side": "is_input"}


class PositionRange(StrictModel):
    """Positions start, start + 1, ..., stop - 1."""

    start: _Int32 = 0
    """Negative: from the end of the prompt."""
    stop: _Int32 | None = None
    """Absent: to the end, generated tokens included."""


class StepRange(StrictModel):
    """Steps start, ..., stop - 1."""

    start: Uint32 = 0
    stop: Uint32 | None = None
    """Absent: to the end."""


def _form_of_numbers(value: Any) -> str:
    return "<range>" if isinstance(value, Mapping) else "<list>" if isinstance(value, list) else "<number>"


_BY_FORM = Discriminator(
    _form_of_numbers, custom_error_type=INVALID, custom_error_message="A number, or start and stop"
)


class Form(StrictModel):
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
    steps: Annotated[Annotated[Uint32, Tag("<number>")] | Annotated[StepRange, Tag("<range>")], _BY_FORM] | None = None
    """Steps of the generation, 0 the prefill; absent: all."""
    rows: list[Uint32] | None = Field(default=None, min_length=1)
    """Prompts of the request; absent: all."""

    operand: ClassVar[str] = "action"  # the field that errors about the value speak of

    def to_message(self) -> pb.Intervention:
        """The edit as the contract carries it.

        Raises:
            MLXIntegrationError: as `checks.check`; `field` is a path of the contract, see `param`.
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
        checks.check(message, "")
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


def parsed(value: dict[str, Any], message: _Message, field: str) -> _Message:
    """A message from protobuf's JSON.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise InvalidRequestError(" ".join(str(error).split()), field=field) from None
