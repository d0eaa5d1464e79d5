"""Edits of activations while the model runs, as values that can be sent, stored and replayed.

    edit("resid_post", 5, lambda act: act + 4 * direction, positions=slice(2, None), steps=0)
    edit("blocks.5.hook_resid_post", lambda act: act.project_out(direction))
    edit("head_output", 2, lambda act: act.heads[3, 7].zero())
    zero("mlp_out", 3)
    scale("attn_out", 3, 0.5)
    add("resid_post", 5, direction, 4.0, steps=slice(1, None))
    replace("resid_post", 5, cache["resid_post", 5])

What an edit may compute is in `neuroscope.interventions.expressions`. A function is called once, here, with the
activation as a symbol; it runs in no model.

The selector is that of hooks: `heads`; absolute token `positions`, negative ones from the end of the prompt; `steps` of
a generation, 0 the prefill; `rows` of the request. The value must broadcast to the selected part, whose first axis is
the batch, 1 for each row. A tensor whose position axis is longer than 1 is indexed by the ordinal of the selected
position, and must be as long as there are selected positions. Hooks at the same point read the edited value. Edits of
one point apply in the order given; the engine refuses one that would overwrite what an earlier one left, and one that
never applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeAlias, cast, overload

from google.protobuf import json_format

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import checks, expression_text
from neuroscope.interventions.expressions import (
    Expression,
    Operand,
    SelectedActivation,
    TensorLike,
    tensor,
    to_expression,
    to_product,
)
from neuroscope.interventions.site import to_site
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.vocabulary import selection, sites
from neuroscope.vocabulary.selection import Positions, Steps

Function: TypeAlias = Callable[[SelectedActivation], Operand]
Value: TypeAlias = "Function | Operand"


class Intervention:
    """One edit, as the contract carries it. Its text is what it does: `resid_post.5[steps 0] := act + 4·tensor(128)`.

    Args:
        message: the contract's message; it is checked, and kept as it is.

    Raises:
        UnknownSiteError, InvalidRequestError, DataConversionError: as `checks.check`.
    """

    __slots__ = ("message",)

    def __init__(self, message: pb.Intervention) -> None:
        checks.check(message, "intervention")
        self.message = message

    def to_json(self) -> dict[str, Any]:
        """The message in protobuf's canonical JSON, exact to the last bit, with the contract's field names."""
        return json_format.MessageToDict(self.message, preserving_proto_field_name=True)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Intervention:
        """From the form of `to_json`, or from the REST form (`neuroscope.interventions.forms`).

        Raises:
            InvalidRequestError: a field is missing, unknown or malformed; names it.
        """
        from neuroscope.interventions import forms  # pydantic is imported by those only who need it

        return cls(forms.from_json(value, "intervention"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and self.message == other.message

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages

    def __repr__(self) -> str:
        return describe(self.message)


InterventionLike: TypeAlias = "Intervention | pb.Intervention | Mapping[str, Any]"


@overload
def edit(
    component: str,
    value: Function | Expression,
    /,
    *,
    heads: Sequence[int] | None = None,
    positions: Positions = None,
    steps: Steps = None,
    rows: Sequence[int] | None = None,
    layer_name: str = "",
    is_input: bool = False,
    intervention_id: str = "",
) -> Intervention: ...


@overload
def edit(
    component: str,
    layer: SupportsIndex | None,
    value: Value,
    /,
    *,
    heads: Sequence[int] | None = None,
    positions: Positions = None,
    steps: Steps = None,
    rows: Sequence[int] | None = None,
    layer_name: str = "",
    is_input: bool = False,
    intervention_id: str = "",
) -> Intervention: ...


def edit(
    component: str,
    *layer_and_value: Any,
    heads: Sequence[int] | None = None,
    positions: Positions = None,
    steps: Steps = None,
    rows: Sequence[int] | None = None,
    layer_name: str = "",
    is_input: bool = False,
    intervention_id: str = "",
) -> Intervention:
    """Puts a value in the place of an activation.

    Args:
        component: component name, REST name or TransformerLens name.
        layer: from 0, negative from the end; None, or left out before a function: the one that the name carries, or
            every layer.
        value: a function from the activation to its new value, or that value.
        heads: from 0, negative from the end; None: all. Heads of `attention` are those of `head_output`, since its
            output is their sum.
        positions: token positions, negative from the end of the prompt; None: all.
        steps: of a generation, 0 the prefill; None: all.
        rows: prompts of the request; None: all.
        layer_name: the layer in any common spelling, instead of `layer`.
        is_input: edits what the module reads instead of what it writes.
        intervention_id: name in errors; empty: made by the service.

    Raises:
        UnknownSiteError: the name resolves to nothing.
        InvalidRequestError: the selection is empty, or the value is no expression.
        DataConversionError: an array holds NaN, infinity or no numbers.
    """
    layer, value = _layer_and_value(layer_and_value)
    expression = _evaluated(value)
    if expression.selected_heads:
        if heads is not None and tuple(heads) != expression.selected_heads:
            raise InvalidRequestError(f"heads={heads!r} and act.heads disagree", field="select.heads")
        heads = expression.selected_heads
    for name, numbers in (("heads", heads), ("rows", rows)):
        if numbers is not None and len(numbers) == 0:
            raise InvalidRequestError(f"{name} selects nothing; leave it out to select all", field=f"select.{name}")
    try:
        return Intervention(
            pb.Intervention(
                intervention_id=intervention_id,
                site=to_site(component, layer, layer_name, is_input=is_input, heads=heads or ()),
                select=selection.to_selector(heads or (), positions, steps, rows or ()),
                value=expression.message,
            )
        )
    except (TypeError, ValueError) as error:  # protobuf's: another type, or out of the range of its integers
        raise InvalidRequestError(f"edit({component!r}, ...): {error}", field="intervention") from None


def zero(component: str, layer: SupportsIndex | None = None, **select: Any) -> Intervention:
    """Zero ablation. Keyword arguments here and below are those of `edit`."""
    return edit(component, layer, 0.0, **select)


def scale(component: str, layer: SupportsIndex | None, factor: float, **select: Any) -> Intervention:
    """Multiplies the activation by a number."""
    return edit(component, layer, lambda act: act * factor, **select)


def add(
    component: str, layer: SupportsIndex | None, direction: TensorLike, coefficient: float = 1.0, **select: Any
) -> Intervention:
    """Adds a multiple of a direction: steering (Turner et al. 2023, arXiv:2308.10248)."""
    return edit(component, layer, lambda act: act + to_product(coefficient, tensor(direction)), **select)


def replace(component: str, layer: SupportsIndex | None, value: TensorLike, **select: Any) -> Intervention:
    """Puts a tensor in the activation's place: activation patching (Vig et al. 2020; Meng et al. 2022)."""
    return edit(component, layer, lambda act: act.replace(value), **select)


def to_messages(interventions: Sequence[InterventionLike], field: str = "interventions") -> list[pb.Intervention]:
    """Interventions in any of their forms as checked messages.

    Raises:
        InvalidRequestError: an entry has none of the forms, or as `Intervention`; `field` names the entry.
    """
    if isinstance(interventions, Intervention | pb.Intervention | Mapping):
        raise InvalidRequestError("interventions is a list; put the edit in brackets", field=field)
    return [_to_message(entry, f"{field}[{index}]") for index, entry in enumerate(interventions)]


def describe(message: pb.Intervention) -> str:
    """An edit on one line: `resid_post.5[positions 2:; steps 0] := act + 4·tensor(128)`."""
    name = f"{message.intervention_id}: " if message.intervention_id else ""
    point = sites.resolve(message.site, None)[0] if message.HasField("site") else "features"
    select = selection.describe(message.select)
    return f"{name}{point}{f'[{select}]' if select else ''} := {expression_text.describe(message.value)}"


def _layer_and_value(given: Sequence[Any]) -> tuple[int | None, Any]:
    if len(given) == 2:
        return given[0], given[1]
    if len(given) == 1 and (callable(given[0]) or isinstance(given[0], Expression)):
        return None, given[0]
    raise InvalidRequestError("an edit is edit(component, layer, value) or edit(component, function)", field="value")


def _evaluated(value: Any) -> Expression:
    """The expression of a value: a function is called with the placeholder."""
    if isinstance(value, Expression) or not callable(value):
        return to_expression(value)
    result = cast("Callable[[SelectedActivation], object]", value)(SelectedActivation())
    if result is None:
        raise InvalidRequestError("the function of an edit returned None; it must return the new value", field="value")
    return to_expression(result)


def _to_message(entry: object, field: str) -> pb.Intervention:
    match entry:
        case Intervention():
            return entry.message
        case pb.Intervention():
            message = entry
        case Mapping():
            from neuroscope.interventions import forms

            message = forms.from_json(cast("Mapping[str, Any]", entry), field)
        case _:
            raise InvalidRequestError(
                f"an intervention is what edit(...) gives, its JSON or its message, not {entry!r}", field=field
            )
    checks.check(message, field)
    return message
