"""neuroscope.interventions and neuroscope.interventions.expressions: what users write, what is sent, what is refused.

pytest tests/unit/test_interventions.py
"""

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import neuroscope
from neuroscope.errors import (
    ChecksumError,
    DataConversionError,
    InvalidRequestError,
    UnavailableSiteError,
    UnknownSiteError,
)
from neuroscope.interventions import Intervention, add, edit, replace, scale, to_messages, zero
from neuroscope.interventions.checks import MAX_DEPTH
from neuroscope.interventions.expressions import SelectedActivation, captured, noise, tensor
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.tensors import from_message
from tests.support.compare import assert_close
from tests.support.numpy_edits import Row, apply

RNG = np.random.default_rng(3)
X = RNG.normal(size=(1, 6, 4))
DIRECTION = RNG.normal(size=4).astype(np.float32)
POINT = sites.Point("resid_post", 5)


def evaluated(function: Callable[[Any], Any]) -> Any:
    """What the edit of a function means, by the independent evaluator."""
    return apply(edit("resid_post", 5, function).message, X, POINT, Row(6))


# ------------------------------------------------------------------------------------------------ expressions


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x + 1,
        lambda x: 1 + x,
        lambda x: x - 1,
        lambda x: 1 - x,
        lambda x: x * 0.5,
        lambda x: 0.5 * x,
        lambda x: x / 4,
        lambda x: 4 / (x * x + 1),
        lambda x: -x,
        lambda x: +x,
        lambda x: x + 4 * DIRECTION,
        lambda x: DIRECTION + x,
        lambda x: DIRECTION - x,
        lambda x: DIRECTION * x,
        lambda x: DIRECTION / (2 + x * x),
        lambda x: DIRECTION[:1] * x,
        lambda x: np.float32(3) * x + np.float64(0.25),
        lambda x: np.int64(3) * x,
        lambda x: np.array(3.0) * x,
        lambda x: x * np.array([True, False, True, False]),
        lambda x: x * [1, 2, 3, 4],
        lambda x: (x - (x + 1)) * (x * (x - 2)),
        lambda _: 2.5,
        lambda _: DIRECTION * np.ones((1, 6, 1), np.float32),
    ],
)
def test_python_arithmetic_means_what_numpy_means(function: Callable[[Any], Any]) -> None:
    expected = np.broadcast_to(function(X.copy()), X.shape)
    assert_close("value", evaluated(function), expected, tolerance=1e-7)


def test_methods() -> None:
    reference = RNG.normal(size=(3, 7, 4)).astype(np.float32)
    assert_close("clamp", evaluated(lambda x: x.clamp(-0.5, 0.5)), np.clip(X, -0.5, 0.5), tolerance=1e-15)
    assert_close("minimum", evaluated(lambda x: x.clamp(minimum=0)), np.maximum(X, 0), tolerance=1e-15)
    assert not evaluated(lambda x: x.zero()).any()
    assert_close("mean", evaluated(lambda x: x - x.mean(reference)), X - reference.mean((0, 1)), tolerance=1e-7)
    assert_close("replace", evaluated(lambda x: x.replace(DIRECTION)), np.tile(DIRECTION, (1, 6, 1)), tolerance=1e-15)
    assert_close("number", evaluated(lambda x: x.replace(3)), np.full_like(X, 3), tolerance=1e-15)
    out = evaluated(lambda x: (2 * x).project_out(DIRECTION))
    along = (2 * X) @ DIRECTION.astype(float) / np.sum(DIRECTION.astype(float) ** 2)
    assert_close("project_out", out, 2 * X - along[..., None] * DIRECTION, tolerance=1e-6)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda act: act + 4 * tensor("direction"), "act + 4·tensor(direction)"),
        (lambda act: act + 4 * DIRECTION, "act + tensor(4)"),
        (lambda act: (act + 1) * 2 - act / 2, "(act + 1)·2 - act/2"),
        (lambda act: act - (act - 1), "act - (act - 1)"),
        (lambda act: -act + -1, "-1·act + (-1)"),
        (lambda act: act.clamp(-1, 1).project_out(DIRECTION), "project_out(clamp(act, -1, 1), tensor(4))"),
        (lambda act: act.clamp(maximum=2), "clamp(act, -∞, 2)"),
        (lambda act: act - act.mean(np.ones((3, 5, 4))), "act - mean(tensor(3×5×4))"),
        (lambda act: act.replace(act.row(1)), "act.row(1)"),
        (lambda act: act.replace("uploaded"), "tensor(uploaded)"),
        (lambda act: act.replace(captured("clean", 3, step=2)), "captured(clean, 3, step=2)"),
        (lambda act: act + noise(0.1, seed=7), "act + noise(0.1, seed=7)"),
        (lambda act: act + noise(0.1, mean=2), "act + noise(0.1, seed=0, mean=2)"),
        (lambda act: 0, "0"),
    ],
)
def test_the_text_of_an_expression(function: Callable[[Any], Any], text: str) -> None:
    assert repr(edit("resid_post", 5, function)) == f"resid_post.5 := {text}"


def test_heads_of_the_activation_select_for_the_whole_edit() -> None:
    assert repr(edit("head_output", 2, lambda act: act.heads[3, 7].zero())) == "head_output.2[heads 3, 7] := 0"
    assert repr(edit("head_output", 2, lambda act: act.heads[-1] * 0.5)) == "head_output.2[heads -1] := act·0.5"
    patched = edit("head_output", 2, lambda act: act.heads[[1]].replace(act.heads[[1]].row(1)))
    assert patched == edit("head_output", 2, lambda act: act.row(1), heads=[1])
    assert edit("head_output", 2, lambda act: act.heads[1] * 2, heads=[1]).message.select.heads == [1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda act: act.heads[1] + act.heads[2], "one choice of heads"),
        (lambda act: act + act.heads[2], "one choice of heads"),
        (lambda act: act.heads[()], "selects nothing"),
        (lambda act: act.heads["x"], "heads are numbers"),
        (lambda act: None, "returned None"),
        (lambda act: act + "direction", r"tensor\('id'\)"),
        (lambda act: act + None, "None is no operand"),
        (lambda act: act * True, "True is no operand"),
        (lambda act: act + {"a": 1}, "is no operand"),
        (lambda act: act + (lambda: 1), "is no operand"),
        (lambda act: act + object(), "holds no numbers"),
        (lambda act: act * 1j, "holds no numbers"),
        (lambda act: act if act else 0, "Python cannot branch"),
        (lambda act: act[0], "positions="),
        (lambda act: list(act), "positions="),
        (lambda act: np.asarray(act), "numpy cannot compute"),
        (lambda act: act.row("x"), "a row is a prompt's number"),
        (lambda act: act.row(-1), "a row is a prompt's number"),
        (lambda act: act.clamp("x"), "clamp"),
        (lambda act: act.clamp(), "a minimum, a maximum or both"),
        (lambda act: act.clamp(2, 1), "above the maximum"),
        (lambda act: act.project_out(act), "a tensor is wanted here, not act"),
        (lambda act: act + noise(-1), "standard deviation is -1"),
        (lambda act: act + noise(1, seed=-1), "noise"),
        (lambda act: act + noise(float("inf")), "standard deviation is inf"),
        (lambda act: sum([act] * 100), "nested more than"),
        (lambda act: act.replace(""), "a tensor is missing"),
    ],
)
def test_what_is_no_expression(function: Callable[[Any], Any], message: str) -> None:
    with pytest.raises((InvalidRequestError, DataConversionError), match=message):
        edit("head_output", 2, function)


def test_numpy_functions_do_not_take_an_activation() -> None:
    with pytest.raises(TypeError, match="ufunc"):
        np.add(DIRECTION, SelectedActivation())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[0.0, 1.0], [float("nan"), 0.0]], r"tensor\(2×2\) holds a value at \[1, 0\] that is nan"),
        (np.array([1, np.inf], ml_dtypes.bfloat16), r"tensor\(2\) holds a value at \[1\] that is inf"),
        ([1e300], r"holds a value at \[0\] that is too large for float32"),
        ([], r"tensor\(0\) is empty"),
        (["a"], "holds no numbers"),
        ([[1], [1, 2]], "rows have different lengths"),
    ],
)
def test_a_tensor_that_is_not_finite_is_named(array: Any, message: str) -> None:
    for made in (lambda: add("resid_post", 5, array), lambda: edit("resid_post", 5, lambda act: act * array)):
        with pytest.raises(DataConversionError, match=message):
            made()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(DataConversionError, match="the number is"):
        scale("resid_post", 5, number)


def test_a_direction_is_one_vector() -> None:
    for wrong in (np.zeros(4), np.ones((2, 4))):
        with pytest.raises(DataConversionError, match="a direction is one vector"):
            edit("resid_post", 5, lambda act, d=wrong: act.project_out(d))
    assert edit("resid_post", 5, lambda act: act.project_out(np.ones((1, 1, 4))))


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.ones(2), "float32"),
        (np.ones(2, ">f4"), "float32"),
        (np.ones(2, np.float16), "float16"),
        (np.ones(2, ml_dtypes.bfloat16), "bfloat16"),
        ([1.5, 2.0], "float32"),
        (np.ones((3, 2), np.float32).T, "float32"),
    ],
)
def test_arrays_go_with_the_request(array: Any, dtype: str) -> None:
    inline = replace("resid_post", 5, array).message.value.tensor.inline
    sent = from_message(inline)
    assert sent.dtype.name == dtype
    assert np.array_equal(sent, np.asarray(array))
    assert inline.xxh3_64


# ------------------------------------------------------------------------------------------------ interventions


def test_an_edit_as_it_is_sent() -> None:
    made = edit(
        "residual",
        None,
        lambda act: act * 2,
        layer_name="transformer.h.5",
        is_input=True,
        positions=slice(2, None),
        steps=0,
        rows=[1],
        intervention_id="double",
    )
    assert made.message == pb.Intervention(
        intervention_id="double",
        site=site_pb2.Site(component="residual", layer_name="transformer.h.5", side=site_pb2.SIDE_INPUT),
        select=site_pb2.Selector(
            positions=site_pb2.PositionSelector(range=site_pb2.PositionRange(start=2)),
            steps=site_pb2.StepSelector(start=0, stop=1),
            rows=[1],
        ),
        value=pb.Expression(
            binary=pb.BinaryOperation(
                operator=pb.BINARY_OPERATOR_MULTIPLY,
                left=pb.Expression(activation=pb.Activation()),
                right=pb.Expression(constant=2),
            )
        ),
    )
    assert repr(made) == "double: resid_pre.5[positions 2:; steps 0; rows 1] := act·2"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (zero("mlp_out", 3), "mlp_out.3 := 0"),
        (zero("mlp_out.3"), "mlp_out.3 := 0"),
        (zero("mlp_out"), "mlp_out := 0"),
        (zero("mlp_out", -1), "mlp_out.-1 := 0"),
        (zero("mlp_out", 3, is_input=True), "mlp_out.3.input := 0"),
        (scale("attn_out", 3, 0.5, positions=[0, -1]), "attn_out.3[positions 0, -1] := act·0.5"),
        (add("resid_post", 5, "id", 4.0, steps=slice(1, None)), "resid_post.5[steps 1:] := act + 4·tensor(id)"),
        (add("resid_post", 5, DIRECTION), "resid_post.5 := act + tensor(4)"),
        (replace("resid_post", 5, X, steps=slice(0, 3)), "resid_post.5[steps :3] := tensor(1×6×4)"),
        (replace("resid_post", 5, tensor("id")), "resid_post.5 := tensor(id)"),
        (edit("blocks.5.hook_resid_post", lambda act: act * 2), "resid_post.5 := act·2"),
        (edit("embedding", noise(0.1)), "embedding := noise(0.1, seed=0)"),
        (edit("mlp", lambda act: 0), "mlp_out := 0"),
        (edit("mlp", 3, 0), "mlp_out.3 := 0"),
        (edit("mlp", 3, [1, 2]), "mlp_out.3 := tensor(2)"),
        (zero("attention", 8, heads=[3, 7, 11]), "head_output.8[heads 3, 7, 11] := 0"),
        (zero("attention", 8), "attn_out.8 := 0"),
        (zero("value", np.int64(8), heads=np.array([1])), "value.8[heads 1] := 0"),
    ],
)
def test_short_forms(made: Intervention, text: str) -> None:
    assert repr(made) == text


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: zero("mlpx", 3), "intervention.site.component"),
        (lambda: zero("mlp", 3, layer_name="blocks.4"), "intervention.site.layer"),
        (lambda: zero("logits", 3), "intervention.site.layer"),
        (lambda: zero("expert_indices", 3), "intervention.site.component"),
        (lambda: zero("mlp", 2**40), "intervention"),
        (lambda: zero("mlp", "x"), "intervention"),  # pyright: ignore[reportArgumentType]
        (lambda: zero("mlp", 3, heads=[1]), "intervention.select.heads"),
        (lambda: zero("head_output", 3, heads=[]), "select.heads"),
        (lambda: zero("head_output", 3, heads=[1, 2, 1]), "intervention.select.heads"),
        (lambda: zero("mlp", 3, rows=[]), "select.rows"),
        (lambda: zero("mlp", 3, rows=[-1]), "intervention"),
        (lambda: zero("mlp", 3, positions=[]), "intervention.select.positions"),
        (lambda: zero("mlp", 3, positions=[2, 2]), "intervention.select.positions"),
        (lambda: zero("mlp", 3, positions="x"), "intervention"),
        (lambda: zero("mlp", 3, positions=slice(5, 5)), "intervention.select.positions"),
        (lambda: zero("mlp", 3, positions=slice(-1, -2)), "intervention.select.positions"),
        (lambda: zero("mlp", 3, positions=slice(-1, 0)), "intervention.select.positions"),
        (lambda: zero("mlp", 3, positions=slice(0, 9, 2)), "positions"),
        (lambda: zero("mlp", 3, steps=slice(2, 2)), "intervention.select.steps"),
        (lambda: zero("mlp", 3, steps=[0, 1]), "steps"),
        (lambda: zero("mlp", 3, steps=-1), "intervention"),
        (lambda: edit("mlp", 3), "value"),  # pyright: ignore[reportCallIssue, reportArgumentType]
        (lambda: edit("mlp"), "value"),  # pyright: ignore[reportCallIssue]
        (lambda: edit("head_output", 3, lambda act: act.heads[1] * 2, heads=[2]), "select.heads"),
        (lambda: scale("mlp", 3, "x"), "value"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_mistakes_name_their_field(make: Callable[[], Any], field: str) -> None:
    with pytest.raises((InvalidRequestError, UnknownSiteError, UnavailableSiteError)) as caught:
        make()
    assert caught.value.field == field


def test_an_open_or_mixed_range_may_select_something() -> None:
    for positions in (slice(-3, None), slice(-3, 2), slice(2, -1), slice(None, 1)):
        assert zero("mlp", 3, positions=positions)


def test_every_short_form_is_exported() -> None:
    for name in ("Intervention", "edit", "zero", "scale", "add", "replace", "noise", "tensor"):
        assert name in neuroscope.__all__
        assert getattr(neuroscope, name)


# ------------------------------------------------------------------------------------------------ lists and messages


def test_lists_take_every_form() -> None:
    made = zero("mlp_out", 3)
    rest = {"layer_name": "blocks.3", "component": "mlp_out", "action": "zero"}
    messages = to_messages([made, made.message, rest, made.to_json()])
    assert messages[0] is messages[1] is made.message
    assert messages[2].site.layer_name == "blocks.3"
    assert messages[3] == made.message


@pytest.mark.parametrize("one", [zero("mlp", 3), zero("mlp", 3).message, {"component": "mlp", "action": "zero"}])
def test_one_edit_alone_is_not_a_list(one: Any) -> None:
    with pytest.raises(InvalidRequestError, match="put the edit in brackets"):
        to_messages(one)


@pytest.mark.parametrize("entry", [3, None, "zero mlp_out.3", ("mlp", 3), lambda act: act])
def test_other_things_are_no_interventions(entry: Any) -> None:
    with pytest.raises(InvalidRequestError, match="an intervention is what edit") as caught:
        to_messages([zero("mlp", 3), entry])
    assert caught.value.field == "interventions[1]"


def leaf(**node: Any) -> pb.Intervention:
    return pb.Intervention(site=site_pb2.Site(component="mlp", layer=3), value=pb.Expression(**node))


def inline(**fields: Any) -> tensor_pb2.TensorReference:
    ones = np.ones(2, np.float32).tobytes()
    whole: dict[str, Any] = {"dtype": tensor_pb2.DATA_TYPE_FLOAT32, "shape": [2], "data": ones} | fields
    return tensor_pb2.TensorReference(inline=tensor_pb2.Tensor(**whole))


@pytest.mark.parametrize(
    ("message", "field", "error"),
    [
        (leaf(), "value", InvalidRequestError),
        (leaf(constant=float("nan")), "value.constant", InvalidRequestError),
        (leaf(binary=pb.BinaryOperation()), "value.binary.operator", InvalidRequestError),
        (leaf(binary=pb.BinaryOperation(operator=pb.BINARY_OPERATOR_ADD)), "value.binary.left", InvalidRequestError),
        (leaf(clamp=pb.Clamp(minimum=0)), "value.clamp.operand", InvalidRequestError),
        (leaf(clamp=pb.Clamp(minimum=float("nan"))), "value.clamp.minimum", InvalidRequestError),
        (leaf(project_out=pb.ProjectOut()), "value.project_out.direction", InvalidRequestError),
        (leaf(reference_mean=pb.ReferenceMean()), "value.reference_mean.reference", InvalidRequestError),
        (leaf(tensor=tensor_pb2.TensorReference()), "value.tensor", InvalidRequestError),
        (leaf(tensor=tensor_pb2.TensorReference(tensor_id="")), "value.tensor", InvalidRequestError),
        (leaf(tensor=inline(shape=[3])), "value.tensor.inline", DataConversionError),
        (leaf(tensor=inline(dtype=0)), "value.tensor.inline", DataConversionError),
        (leaf(tensor=inline(xxh3_64=1)), "value.tensor.inline", ChecksumError),
        (
            leaf(tensor=inline(data=np.array([1, np.nan], np.float32).tobytes())),
            "value.tensor.inline",
            DataConversionError,
        ),
        (leaf(noise=pb.Noise(mean=float("inf"))), "value.noise.mean", InvalidRequestError),
        (pb.Intervention(site=site_pb2.Site(component="nope")), "site.component", UnknownSiteError),
    ],
)
def test_messages_are_checked(message: pb.Intervention, field: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        to_messages([zero("mlp", 3), message])
    assert getattr(caught.value, "field", None) == f"interventions[1].{field}"
    with pytest.raises(error):
        Intervention(message)


def test_the_deepest_expression_is_read_by_protobuf() -> None:
    act: Any = SelectedActivation()
    deepest = edit("mlp", 3, sum([act] * MAX_DEPTH))  # the first sum is 0 + act
    assert pb.Intervention.FromString(deepest.message.SerializeToString()) == deepest.message
    with pytest.raises(InvalidRequestError, match="nested"):
        edit("mlp", 3, sum([act] * (MAX_DEPTH + 1)))


# ------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    "made",
    [
        zero("mlp_out", 3),
        zero("attention", 8, heads=[3, 7], positions=[-1], steps=slice(1, 4), rows=[0]),
        edit("resid_post", lambda act: (act - 1 / 3).clamp(-1) + noise(0.1, seed=2**63) * act.row(2)),
        edit("resid_post", 5, lambda act: act.project_out(DIRECTION) + act.mean(captured("c", 1))),
        replace("resid_post", 5, RNG.normal(size=(1, 3, 4)).astype(ml_dtypes.bfloat16)),
        scale("mlp", 3, 0.1 + 1e-17),
    ],
    ids=repr,
)
def test_json_there_and_back_is_exact(made: Intervention) -> None:
    text = json.dumps(made.to_json())
    assert Intervention.from_json(json.loads(text)) == made
    assert repr(Intervention.from_json(json.loads(text))) == repr(made)


def test_equality_is_that_of_messages() -> None:
    assert zero("mlp_out", 3) == zero("mlp_out", 3)
    assert zero("mlp_out", 3) != zero("mlp_out", 4)
    assert zero("mlp_out", 3) != "zero"
