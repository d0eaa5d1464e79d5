"""What can be known to be wrong with an intervention before any model sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import xxhash

from neuroscope.errors import ChecksumError, DataConversionError, InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import selection, sites, tensors

MAX_DEPTH = 40
"""Nested operations in one expression; protobuf reads no message that is nested much deeper."""
TOO_DEEP = f"operations are nested more than {MAX_DEPTH} deep; edits of one point apply one after the other"
_NOT_EDITABLE = {"expert_indices": "they are indices; edit router_logits"}


def check(intervention: pb.Intervention, field: str) -> None:
    """Refuses what cannot be meant.

    Args:
        intervention: the message.
        field: its path in the request, such as `interventions[0]`, for errors.

    Raises:
        UnknownSiteError: the site's name resolves to nothing.
        UnavailableSiteError: the site is one that is never edited.
        InvalidRequestError: it selects nothing, or the expression is incomplete, too deep or not finite.
        DataConversionError, ChecksumError: a tensor is malformed or not finite.
    """
    component = ""  # left to the dictionary, which knows no heads
    if intervention.value.HasField("features") and intervention.select.heads:
        raise InvalidRequestError("features are of all heads together", field=f"{field}.select.heads")
    if intervention.HasField("site") or not intervention.value.HasField("features"):
        component = sites.resolve(intervention.site, None, field=f"{field}.site")[0].component
    if why := _NOT_EDITABLE.get(component):
        raise UnavailableSiteError(f"{component} cannot be edited: {why}", field=f"{field}.site.component")
    selection.check(intervention.select, component, f"{field}.select")
    _check_expression(intervention.value, f"{field}.value", 0)


def _check_expression(expression: pb.Expression, field: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidRequestError(TOO_DEEP, field=field)
    match expression.WhichOneof("node"):
        case None:
            raise InvalidRequestError("an expression is missing", field=field)
        case "constant":
            _check_number(expression.constant, "the constant", f"{field}.constant")
        case "tensor":
            _check_reference(expression.tensor, f"{field}.tensor")
        case "reference_mean":
            _check_reference(expression.reference_mean.reference, f"{field}.reference_mean.reference")
        case "noise":
            _check_noise(expression.noise, f"{field}.noise")
        case "binary":
            if expression.binary.operator == pb.BINARY_OPERATOR_UNSPECIFIED:
                raise InvalidRequestError("the operator is missing", field=f"{field}.binary.operator")
        case "project_out":
            _check_reference(expression.project_out.direction, f"{field}.project_out.direction", direction=True)
        case "clamp":
            _check_clamp(expression.clamp, f"{field}.clamp")
        case "features":
            _check_features(expression.features, f"{field}.features")
        case "activation" | "other_row":
            pass
    for name, operand in _operands(expression):
        _check_expression(operand, f"{field}.{name}", depth + 1)


def _operands(expression: pb.Expression) -> Iterator[tuple[str, pb.Expression]]:
    match expression.WhichOneof("node"):
        case "binary":
            yield "binary.left", expression.binary.left
            yield "binary.right", expression.binary.right
        case "project_out":
            yield "project_out.operand", expression.project_out.operand
        case "clamp":
            yield "clamp.operand", expression.clamp.operand
        case _:
            pass


def _check_noise(noise: pb.Noise, field: str) -> None:
    _check_number(noise.standard_deviation, "the standard deviation", f"{field}.standard_deviation")
    _check_number(noise.mean, "the mean", f"{field}.mean")
    if noise.standard_deviation < 0:
        raise InvalidRequestError(
            f"the standard deviation is {noise.standard_deviation:g}", field=f"{field}.standard_deviation"
        )


def _check_clamp(clamp: pb.Clamp, field: str) -> None:
    bounds = [name for name in ("minimum", "maximum") if clamp.HasField(name)]
    if not bounds:
        raise InvalidRequestError("a clamp has a minimum, a maximum or both", field=f"{field}.minimum")
    for name in bounds:
        _check_number(getattr(clamp, name), f"the {name}", f"{field}.{name}")
    if len(bounds) == 2 and clamp.minimum > clamp.maximum:
        raise InvalidRequestError(
            f"the minimum {clamp.minimum:g} is above the maximum {clamp.maximum:g}", field=f"{field}.minimum"
        )


def _check_features(features: pb.FeatureEdits, field: str) -> None:
    if not features.dictionary_id:
        raise InvalidRequestError("the dictionary is missing", field=f"{field}.dictionary_id")
    if not features.edits and not features.reconstructs:
        raise InvalidRequestError("no feature is changed", field=f"{field}.edits")
    for index, edit in enumerate(features.edits):
        kind = edit.WhichOneof("change")
        if kind is None:
            raise InvalidRequestError(
                "what becomes of the features is missing: value, factor, added or other_row",
                field=f"{field}.edits[{index}].value",
            )
        _check_number(getattr(edit, kind), f"the {kind}", f"{field}.edits[{index}].{kind}")


def _check_number(value: float, what: str, field: str) -> None:
    if not math.isfinite(value):
        raise InvalidRequestError(f"{what} is {value}", field=field)


def _check_reference(reference: tensor_pb2.TensorReference, field: str, *, direction: bool = False) -> None:
    match reference.WhichOneof("source"):
        case "inline":
            _check_inline(reference.inline, f"{field}.inline", direction=direction)
        case "tensor_id" if reference.tensor_id:
            pass
        case "captured" if reference.captured.capture_id:
            pass
        case _:
            raise InvalidRequestError("a tensor is missing: an id that was uploaded, or an array", field=field)


def _check_inline(tensor: tensor_pb2.Tensor, field: str, *, direction: bool) -> None:
    array = tensors.from_message(tensor, field=field)
    if tensor.xxh3_64 and xxhash.xxh3_64_intdigest(tensor.data) != tensor.xxh3_64:
        raise ChecksumError(f"the bytes of the {tensors.describe(array.shape)} were changed", field=field)
    tensors.check_finite(array, field=field)
    if direction and (array.size != array.shape[-1] or not array.any()):
        raise DataConversionError(
            f"a direction is one vector other than zero, not a {tensors.describe(array.shape)}"
            + ("" if array.any() else " of zeros"),
            field=field,
        )
