"""The numpy reference under edits: identities that hold by definition, point by point.

pytest tests/unit/test_numpy_edits.py
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from neuroscope.v1 import intervention_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.tensors import parse_dtype
from tests.support import numpy_forward
from tests.support.compare import assert_close, relative_error
from tests.support.numpy_edits import OtherPrompt, Row, apply, edits_of, selection
from tests.support.numpy_forward import Activations, Array, Point, forward

RNG = np.random.default_rng(11)
CLEAN, CORRUPTED = RNG.integers(5, 512, size=(2, 12)).tolist()
LAYER = 2

# Who reads each point, one step on: an edit changes these and, of its own layer, nothing that is computed before it.
STREAM = ("resid_pre", "resid_mid", "resid_post")
ORDER = (  # the order of computation within a layer
    *("resid_pre", "ln1", "q_proj", "k_proj", "query", "key", "value", "attention_scores", "attention_pattern"),
    *("head_output", "attn_out", "attn_contrib", "resid_mid", "ln2", "mlp_neurons", "mlp_out", "mlp_contrib"),
    "resid_post",
)
POINTS: list[Point] = [
    ("embedding", None),
    *((component, LAYER) for component in ORDER),
    ("final_norm", None),
    ("logits", None),
]


@pytest.fixture(scope="module", params=["llama_dir", "gpt2_dir"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def clean(folder: Path) -> Activations:
    return forward(folder, CLEAN)


@pytest.fixture(scope="module")
def corrupted(folder: Path) -> Activations:
    return forward(folder, CORRUPTED)


@pytest.fixture(scope="module")
def halved(folder: Path) -> Callable[[Point], Activations]:
    """The activations with one point halved; each is computed once."""
    return cache(lambda point: forward(folder, CLEAN, {point: lambda x: 0.5 * x}))


def changed(before: Activations, after: Activations) -> set[Point]:
    return {point for point, x in before.items() if not np.array_equal(x, after[point])}


# ------------------------------------------------------------------------------------------------ the forward pass


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_an_edit_that_changes_nothing_changes_nothing(folder: Path, clean: Activations, point: Point) -> None:
    assert changed(clean, forward(folder, CLEAN, {point: lambda x: x})) == set()


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_an_edit_shows_at_its_point_and_reaches_the_logits(
    halved: Callable[[Point], Activations], clean: Activations, point: Point
) -> None:
    edited = halved(point)
    assert np.array_equal(edited[point], 0.5 * clean[point])
    assert not np.array_equal(edited["logits", None], clean["logits", None])


@pytest.mark.parametrize("component", ORDER)
def test_an_edit_changes_nothing_that_comes_before_it(
    halved: Callable[[Point], Activations], clean: Activations, component: str
) -> None:
    touched = changed(clean, halved((component, LAYER)))
    earlier = {(name, layer) for name, layer in touched if layer is not None and layer < LAYER}
    assert not earlier
    before = {(name, LAYER) for name in ORDER[: ORDER.index(component)]}
    assert touched & before == set()


@pytest.mark.parametrize(
    ("component", "reached", "untouched"),
    [
        ("resid_pre", {"ln1", "resid_mid"}, set()),
        ("ln1", {"q_proj", "k_proj", "value", "attn_out"}, {"resid_pre"}),
        ("q_proj", {"query", "attention_scores"}, {"k_proj", "key", "value"}),
        ("k_proj", {"key", "attention_scores"}, {"q_proj", "query", "value"}),
        ("query", {"attention_scores"}, {"q_proj", "key", "value"}),
        ("key", {"attention_scores"}, {"k_proj", "query", "value"}),
        ("value", {"head_output"}, {"query", "key", "attention_scores", "attention_pattern"}),
        ("attention_scores", {"attention_pattern", "head_output"}, {"query", "key", "value"}),
        ("attention_pattern", {"head_output"}, {"attention_scores", "value"}),
        ("head_output", {"attn_out"}, {"attention_pattern", "value"}),
        ("attn_out", {"attn_contrib", "resid_mid"}, {"head_output"}),
        ("attn_contrib", {"resid_mid"}, {"attn_out"}),
        ("resid_mid", {"ln2", "resid_post"}, {"attn_contrib"}),
        ("ln2", {"mlp_neurons", "mlp_out"}, {"resid_mid"}),
        ("mlp_neurons", {"mlp_out"}, {"ln2"}),
        ("mlp_out", {"mlp_contrib", "resid_post"}, {"mlp_neurons"}),
        ("mlp_contrib", {"resid_post"}, {"mlp_out"}),
    ],
)
def test_an_edit_reaches_its_readers_only(
    halved: Callable[[Point], Activations], clean: Activations, component: str, reached: set[str], untouched: set[str]
) -> None:
    touched = changed(clean, halved((component, LAYER)))
    here = {name for name, layer in touched if layer == LAYER}
    assert reached <= here
    assert here & untouched == set()


def test_the_stream_is_the_sum_of_what_was_written_under_edits_too(folder: Path) -> None:
    seen = forward(folder, CLEAN, {("attn_out", LAYER): np.sin, ("mlp_contrib", LAYER): np.cos})
    assert np.array_equal(seen["resid_pre", LAYER] + seen["attn_contrib", LAYER], seen["resid_mid", LAYER])
    assert np.array_equal(seen["resid_mid", LAYER] + seen["mlp_contrib", LAYER], seen["resid_post", LAYER])


def test_zeroing_a_head_is_removing_its_columns_of_the_output_projection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, d_head = 3, 16

    def without_head(z: Array) -> Array:
        z[:, :, head] = 0.0
        return z

    edited = forward(folder, CLEAN, {("head_output", LAYER): without_head})
    load_file = numpy_forward.load_file
    projection = {
        f"model.layers.{LAYER}.self_attn.o_proj.weight",  # both are (outputs, inputs), as every weight of mlx-lm's
        f"model.h.{LAYER}.attn.c_proj.weight",
    }

    def without_columns(file: Path) -> dict[str, Array]:
        weights = dict(load_file(file))
        (name,) = projection & weights.keys()
        weights[name] = weights[name].copy()
        weights[name][:, head * d_head : (head + 1) * d_head] = 0.0
        return weights

    monkeypatch.setattr(numpy_forward, "load_file", without_columns)
    assert_close("logits", edited["logits", None], forward(folder, CLEAN)["logits", None], tolerance=1e-13)


@pytest.mark.parametrize("component", STREAM)
def test_patching_the_whole_stream_gives_the_other_prompts_logits(
    folder: Path, corrupted: Activations, component: str
) -> None:
    patched = forward(folder, CLEAN, {(component, LAYER): lambda _: corrupted[component, LAYER]})
    assert np.array_equal(patched["logits", None], corrupted["logits", None])


def test_patching_one_position_leaves_earlier_ones_alone(
    folder: Path, clean: Activations, corrupted: Activations
) -> None:
    def patch(x: Array) -> Array:
        x[:, 5] = corrupted["resid_post", LAYER][:, 5]
        return x

    logits = forward(folder, CLEAN, {("resid_post", LAYER): patch})["logits", None]
    assert np.array_equal(logits[:, :5], clean["logits", None][:, :5])
    assert relative_error(logits[:, 6:], clean["logits", None][:, 6:]) > 1e-4


def test_an_edited_key_stays_in_what_later_queries_see(folder: Path, clean: Activations) -> None:
    def edit(x: Array) -> Array:
        x[:, 5] = 0.0
        return x

    scores = forward(folder, CLEAN, {("key", LAYER): edit})["attention_scores", LAYER]
    assert np.all(scores[:, :, 5:, 5] == 0.0)
    rest = np.arange(12) != 5
    assert np.array_equal(scores[..., rest], clean["attention_scores", LAYER][..., rest])


def test_embedding_is_edited_before_the_positions_are_added(gpt2_dir: Path) -> None:
    seen = forward(gpt2_dir, [9, 9, 9], {("embedding", None): np.zeros_like})
    weights = numpy_forward.load_file(next(gpt2_dir.glob("model*.safetensors")))
    assert np.array_equal(seen["resid_pre", 0][0], weights["model.wpe.weight"][:3].astype(np.float64))


def test_a_point_that_the_model_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(KeyError, match=r"no such point: .*resid_post"):
        forward(folder, CLEAN, {("resid_post", 9): lambda x: x})


# ------------------------------------------------------------------------------------------------ messages

STREAM_POINT, HEADS_POINT = sites.Point("resid_post", LAYER), sites.Point("head_output", LAYER)
ROW = Row(prompt_length=6)
X = RNG.normal(size=(1, 8, 4))  # six tokens of the prompt, two generated
Z = RNG.normal(size=(1, 8, 3, 2))  # three heads


def message(text: str) -> pb.Intervention:
    return text_format.Parse(text, pb.Intervention())


def inline(array: Array) -> tensor_pb2.TensorReference:
    return tensor_pb2.TensorReference(
        inline=tensor_pb2.Tensor(dtype=parse_dtype(array.dtype.name), shape=array.shape, data=array.tobytes())
    )


def with_tensor(array: Array, select: str = "") -> pb.Intervention:
    intervention = message(f"select {{ {select} }}")
    intervention.value.tensor.CopyFrom(inline(array))
    return intervention


@pytest.mark.parametrize(
    ("select", "positions"),
    [
        ("", range(8)),
        ("positions { list { positions: [4, 0] } }", [4, 0]),
        ("positions { list { positions: [-1, -6] } }", [5, 0]),  # from the end of the prompt
        ("positions { list { positions: 7 } }", [7]),  # the second generated token
        ("positions { range { start: 2 } }", range(2, 8)),
        ("positions { range { start: -2 } }", range(4, 8)),
        ("positions { range { start: 1 stop: -1 } }", range(1, 5)),
        ("steps { start: 0 stop: 1 }", range(6)),
        ("steps { start: 1 }", [6, 7]),
        ("steps { start: 2 stop: 3 }", [7]),
        ("positions { range { start: 5 } } steps { start: 0 stop: 2 }", [5, 6]),
        ("positions { list { positions: 0 } } steps { start: 1 }", []),
    ],
)
def test_selected_positions(select: str, positions: list[int]) -> None:
    where = selection(
        text_format.Parse(select, site_pb2.Selector()), X.shape, sites.COMPONENTS["resid_post"].axes, prompt_length=6
    )
    assert where[1].ravel().tolist() == list(positions)
    zeroed = apply(message(f"select {{ {select} }} value {{ constant: 0 }}"), X, STREAM_POINT, ROW)
    assert set(np.flatnonzero((zeroed == 0).all(axis=(0, 2)))) == set(positions)


def test_selected_heads_and_positions_cross() -> None:
    text = "select { heads: [-1, 0] positions { list { positions: [1, 4] } } } value { constant: 0 }"
    zeroed = apply(message(text), Z, HEADS_POINT, ROW)
    expected = Z.copy()
    for position in (1, 4):
        for head in (2, 0):
            expected[0, position, head] = 0
    assert np.array_equal(zeroed, expected)


def test_attention_is_selected_by_query_position() -> None:
    pattern = RNG.normal(size=(1, 3, 8, 8))
    text = "select { heads: 1 positions { list { positions: 4 } } } value { constant: 0 }"
    zeroed = apply(message(text), pattern, sites.Point("attention_pattern", LAYER), ROW)
    expected = pattern.copy()
    expected[0, 1, 4, :] = 0
    assert np.array_equal(zeroed, expected)


def test_another_row_is_left_alone() -> None:
    text = "select { rows: [1, 2] } value { constant: 0 }"
    assert np.array_equal(apply(message(text), X, STREAM_POINT, ROW), X)
    assert not apply(message(text), X, STREAM_POINT, Row(6, row=2)).any()


@pytest.mark.parametrize(
    ("value", "function"),
    [
        ("activation {}", lambda x: x),
        ("constant: 1.5", lambda x: np.full_like(x, 1.5)),
        ("binary { operator: BINARY_OPERATOR_ADD left { activation {} } right { constant: 2 } }", lambda x: x + 2),
        ("binary { operator: BINARY_OPERATOR_SUBTRACT left { constant: 2 } right { activation {} } }", lambda x: 2 - x),
        (
            "binary { operator: BINARY_OPERATOR_MULTIPLY left { activation {} } right { activation {} } }",
            lambda x: x**2,
        ),
        ("binary { operator: BINARY_OPERATOR_DIVIDE left { activation {} } right { constant: 4 } }", lambda x: x / 4),
        ("clamp { operand { activation {} } minimum: -0.5 maximum: 0 }", lambda x: np.clip(x, -0.5, 0)),
        ("clamp { operand { activation {} } minimum: 0 }", lambda x: np.where(x < 0, 0, x)),
        ("clamp { operand { activation {} } maximum: 0 }", lambda x: np.where(x > 0, 0, x)),
        ("tensor { tensor_id: 'd' }", lambda x: np.broadcast_to([1.0, 2.0, 3.0, 4.0], x.shape)),
        (
            "tensor { captured { capture_id: 'c' plan_index: 1 step: 2 row: 3 } }",
            lambda x: np.full_like(x, 7),
        ),
    ],
    ids=[
        *("activation", "constant", "add", "subtract", "multiply", "divide", "clamp", "minimum", "maximum"),
        *("uploaded", "captured"),
    ],
)
def test_expressions(value: str, function: Callable[[Array], Array]) -> None:
    row = Row(6, tensors={"d": np.array([1.0, 2.0, 3.0, 4.0]), ("c", 1, 2, 3): np.full((1, 1, 4), 7.0)})
    edited = apply(message(f"value {{ {value} }}"), X, STREAM_POINT, row)
    assert np.array_equal(edited, function(X))


def test_projecting_out_leaves_nothing_along_the_direction() -> None:
    direction = RNG.normal(size=4)
    intervention = message("value { project_out { operand { activation {} } } }")
    intervention.value.project_out.direction.CopyFrom(inline(direction))
    edited = apply(intervention, X, STREAM_POINT, ROW)
    assert_close("along it", 1 + edited @ direction, np.ones((1, 8)), tolerance=1e-13)
    across = RNG.normal(size=4)
    across -= (across @ direction) / (direction @ direction) * direction
    assert_close("across it", edited @ across, X @ across, tolerance=1e-13)


def test_a_tensor_is_indexed_by_the_ordinal_of_the_position() -> None:
    donor = RNG.normal(size=(1, 2, 4))
    edited = apply(with_tensor(donor, "positions { list { positions: [4, 1] } }"), X, STREAM_POINT, ROW)
    assert np.array_equal(edited[0, 4], donor[0, 0])
    assert np.array_equal(edited[0, 1], donor[0, 1])


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 8, 4), (5,)])
def test_a_tensor_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        apply(with_tensor(np.ones(shape), "positions { list { positions: [4, 1] } }"), X, STREAM_POINT, ROW)


@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7, 3, 2), (0, 1)), ((7, 3, 2), (0,)), ((3, 2), ()), ((2,), ())], ids=str
)
def test_reference_mean_is_over_batch_and_position(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    reference = RNG.normal(size=shape)
    intervention = message("value { reference_mean { reference { tensor_id: 'r' } } }")
    edited = apply(intervention, Z, HEADS_POINT, Row(6, tensors={"r": reference}))
    expected = reference.mean(axis=axes) if axes else reference
    assert_close("mean", edited, np.broadcast_to(expected, Z.shape), tolerance=1e-14)


def test_another_row_is_read_where_the_selector_says_there() -> None:
    other = RNG.normal(size=(1, 5, 4))
    row = Row(6, others={1: OtherPrompt({("resid_post", LAYER): other}, prompt_length=5)})
    text = "select { positions { list { positions: [-1, 1] } } } value { other_row { row: 1 } }"
    edited = apply(message(text), X, STREAM_POINT, row)
    assert np.array_equal(edited[0, 5], other[0, 4])
    assert np.array_equal(edited[0, 1], other[0, 1])


def test_edits_of_one_point_apply_in_order(folder: Path, clean: Activations) -> None:
    add = "value { binary { operator: BINARY_OPERATOR_ADD left { activation {} } right { constant: 1 } } }"
    double = "value { binary { operator: BINARY_OPERATOR_MULTIPLY left { activation {} } right { constant: 2 } } }"
    site = f"site {{ component: 'residual' layer_name: 'transformer.h.{LAYER}' }}"
    edits = edits_of([message(site + add), message(site + double)], Row(len(CLEAN)), num_layers=4)
    seen = forward(folder, CLEAN, edits)
    assert np.array_equal(seen["resid_post", LAYER], (clean["resid_post", LAYER] + 1) * 2)


def test_a_site_without_a_layer_is_every_layer(folder: Path) -> None:
    seen = forward(
        folder,
        CLEAN,
        edits_of([message("site { component: 'mlp_out' } value { constant: 0 }")], Row(len(CLEAN)), num_layers=4),
    )
    assert all(not seen["mlp_out", layer].any() for layer in range(4))


def test_the_input_of_a_module_is_the_output_of_its_norm(folder: Path) -> None:
    text = "site { component: 'mlp' layer: 1 side: SIDE_INPUT } value { constant: 0 }"
    seen = forward(folder, CLEAN, edits_of([message(text)], Row(len(CLEAN)), num_layers=4))
    assert not seen["ln2", 1].any()


def test_patching_a_prompt_by_message_gives_the_other_prompts_logits(folder: Path, corrupted: Activations) -> None:
    text = f"site {{ component: 'resid_post' layer: {LAYER} }} value {{ other_row {{ row: 1 }} }}"
    row = Row(len(CLEAN), others={1: OtherPrompt(corrupted, len(CORRUPTED))})
    seen = forward(folder, CLEAN, edits_of([message(text)], row, num_layers=4))
    assert np.array_equal(seen["logits", None], corrupted["logits", None])


@pytest.mark.parametrize("value", ["noise { standard_deviation: 1 }", "tensor {}", ""])
def test_refuses_what_it_cannot_judge(value: str) -> None:
    with pytest.raises((NotImplementedError, ValueError)):
        apply(message(f"value {{ {value} }}"), X, STREAM_POINT, ROW)
