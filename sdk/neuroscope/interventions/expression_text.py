"""An expression of an edit as a line of text: `act + 4·tensor(128)`."""

from __future__ import annotations

from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import describe as describe_shape

_SIGNS = {
    pb.BINARY_OPERATOR_ADD: (" + ", 1),
    pb.BINARY_OPERATOR_SUBTRACT: (" - ", 1),
    pb.BINARY_OPERATOR_MULTIPLY: ("·", 2),
    pb.BINARY_OPERATOR_DIVIDE: ("/", 2),
    pb.BINARY_OPERATOR_UNSPECIFIED: (" ? ", 1),
}
_ATOM = 3


def describe(expression: pb.Expression) -> str:
    """The text of an expression."""
    return _text(expression)[0]


def describe_reference(reference: tensor_pb2.TensorReference) -> str:
    """`tensor(1×5×128)` of an array, `tensor(id)` of an uploaded one, `captured(id, 3)` of a capture's."""
    match reference.WhichOneof("source"):
        case "inline":
            return describe_shape(reference.inline.shape)
        case "tensor_id":
            return f"tensor({reference.tensor_id})"
        case "captured":
            one = reference.captured
            more = f"{f', step={one.step}' if one.step else ''}{f', row={one.row}' if one.row else ''}"
            return f"captured({one.capture_id}, {one.plan_index}{more})"
        case _:
            return "tensor()"


def _text(expression: pb.Expression) -> tuple[str, int]:
    """The text and how tightly its operator binds."""
    match expression.WhichOneof("node"):
        case "activation":
            return "act", _ATOM
        case "constant":
            return f"{expression.constant:g}", _ATOM if expression.constant >= 0 else 0
        case "tensor":
            return describe_reference(expression.tensor), _ATOM
        case "other_row":
            return f"act.row({expression.other_row.row})", _ATOM
        case "reference_mean":
            return f"mean({describe_reference(expression.reference_mean.reference)})", _ATOM
        case "noise":
            return _noise(expression.noise), _ATOM
        case "binary":
            return _binary(expression.binary)
        case "project_out":
            out = expression.project_out
            return f"project_out({describe(out.operand)}, {describe_reference(out.direction)})", _ATOM
        case "clamp":
            return _clamp(expression.clamp), _ATOM
        case "features":
            return _features(expression.features), _ATOM
        case _:
            return "nothing", _ATOM


def _binary(operation: pb.BinaryOperation) -> tuple[str, int]:
    sign, strength = _SIGNS[operation.operator]
    left, left_strength = _text(operation.left)
    right, right_strength = _text(operation.right)
    if left_strength < strength and not (left_strength == 0 and operation.left.HasField("constant")):
        left = f"({left})"
    if right_strength <= strength:
        right = f"({right})"
    return f"{left}{sign}{right}", strength


def _noise(noise: pb.Noise) -> str:
    mean = f", mean={noise.mean:g}" if noise.mean else ""
    return f"noise({noise.standard_deviation:g}, seed={noise.seed}{mean})"


def _features(features: pb.FeatureEdits) -> str:
    """`act{sae: f3 = 5, f7, f9 · 0}`; `reconstruction{...}` without the error."""
    changes = [f"{', '.join(f'f{f}' for f in edit.features) or 'all'} {_change(edit)}" for edit in features.edits]
    what = "reconstruction" if features.reconstructs else "act"
    return f"{what}{{{': '.join(filter(None, [features.dictionary_id, '; '.join(changes)]))}}}"


def _change(edit: pb.FeatureEdit) -> str:
    match edit.WhichOneof("change"):
        case "value":
            return f"= {edit.value:g}"
        case "factor":
            return f"· {edit.factor:g}"
        case "added":
            return f"+ {edit.added:g}"
        case "other_row":
            return f"= row({edit.other_row})"
        case _:
            return "?"


def _clamp(clamp: pb.Clamp) -> str:
    minimum = f"{clamp.minimum:g}" if clamp.HasField("minimum") else "-∞"
    maximum = f"{clamp.maximum:g}" if clamp.HasField("maximum") else "∞"
    return f"clamp({describe(clamp.operand)}, {minimum}, {maximum})"
