"""Edits while capturing and generating, over gRPC, against a float64 numpy forward pass that takes the same messages.

python -m pytest tests/integration/test_interventions.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope import errors
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import intervention_pb2 as edit_pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support.compare import relative_error
from tests.support.following import Follower
from tests.support.numpy_edits import OtherPrompt, Row, edits_of
from tests.support.numpy_forward import Activations, forward
from tests.support.recording import Recording, capture_request, generate_request, prompt, record
from tests.support.services import Service

IDS = [3, 141, 59, 26, 53, 58, 97, 93, 23, 84]
OTHER_IDS = [27, 18, 28, 18, 28, 45, 90, 45, 23, 53]
LAYERS = 4
TOLERANCE = 5e-6
GENERATED = 1e-5
FAMILIES = ["llama", "gpt2"]
READ = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "attention_scores",
    "attention_pattern",
    "head_output",
    "key",
    "value",
    "logits",
)
WRITABLE = (
    "embedding",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "ln1",
    "ln2",
    "attn_out",
    "mlp_out",
    "attn_contrib",
    "mlp_contrib",
    "query",
    "key",
    "value",
    "q_proj",
    "k_proj",
    "attention_scores",
    "attention_pattern",
    "head_output",
    "mlp_neurons",
    "final_norm",
    "logits",
)

RNG = np.random.default_rng(7)
ACTIVATION = edit_pb.Expression(activation=edit_pb.Activation())


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, llama_dir: Path, gpt2_dir: Path) -> Path:
    return {"llama": llama_dir, "gpt2": gpt2_dir}[family]


# ------------------------------------------------------------------------------------------------ messages


def constant(number: float) -> edit_pb.Expression:
    return edit_pb.Expression(constant=number)


def tensor(array: Any, dtype: Any = np.float32) -> tensor_pb2.TensorReference:
    values: Array = np.ascontiguousarray(array, dtype)
    wire = {np.float32: tensor_pb2.DATA_TYPE_FLOAT32, np.int32: tensor_pb2.DATA_TYPE_INT32}[dtype]
    return tensor_pb2.TensorReference(inline=tensor_pb2.Tensor(dtype=wire, shape=values.shape, data=values.tobytes()))


def stored(array: Any) -> edit_pb.Expression:
    return edit_pb.Expression(tensor=tensor(array))


def operation(left: edit_pb.Expression, operator: str, right: edit_pb.Expression) -> edit_pb.Expression:
    name = {"+": "ADD", "-": "SUBTRACT", "*": "MULTIPLY", "/": "DIVIDE"}[operator]
    binary = edit_pb.BinaryOperation(
        operator=edit_pb.BinaryOperator.Value(f"BINARY_OPERATOR_{name}"), left=left, right=right
    )
    return edit_pb.Expression(binary=binary)


def edit(
    component: str,
    layer: int | None,
    value: edit_pb.Expression,
    *,
    heads: Sequence[int] = (),
    positions: Sequence[int] | slice = (),
    steps: slice | None = None,
    rows: Sequence[int] = (),
    name: str = "",
) -> edit_pb.Intervention:
    select = site_pb2.Selector(heads=heads, rows=rows)
    if isinstance(positions, slice):
        select.positions.range.start = positions.start or 0
        if positions.stop is not None:
            select.positions.range.stop = positions.stop
    elif positions:
        select.positions.list.positions.extend(positions)
    if steps is not None:
        select.steps.start = steps.start or 0
        if steps.stop is not None:
            select.steps.stop = steps.stop
    site = site_pb2.Site(component=component) if layer is None else site_pb2.Site(component=component, layer=layer)
    return edit_pb.Intervention(intervention_id=name, site=site, select=select, value=value)


# ------------------------------------------------------------------------------------------------ the referee


def captured(transport: GrpcTransport, family: str, edits: Sequence[edit_pb.Intervention], **fields: Any) -> Recording:
    fields = {"prompts": [prompt(IDS)], "model_id": family} | fields
    return record(transport, capture_request(fields.pop("prompts"), *READ, interventions=edits, **fields))


def assert_is(recording: Recording, expected: Activations, tolerance: float = TOLERANCE, row: int = 0) -> None:
    for (component, layer), found in recording.arrays(row).items():
        error = relative_error(found, expected[component, layer], exclude_masked=component == "attention_scores")
        assert error <= tolerance, (component, layer, error)


def check(transport: GrpcTransport, folder: Path, *edits: edit_pb.Intervention, **fields: Any) -> None:
    """A capture with the edits is what the referee says, and is not what the model does without them."""
    expected = forward(folder, IDS, edits_of(edits, Row(len(IDS)), num_layers=LAYERS))
    recording = captured(transport, folder.name, edits, **fields)
    assert_is(recording, expected)
    plain = forward(folder, IDS)["logits", None]
    assert relative_error(recording.array("logits"), plain) > 1e-3, "the edit changed nothing"


def width_of(folder: Path, component: str, layer: int | None) -> tuple[int, ...]:
    return forward(folder, IDS)[component, layer].shape


# ------------------------------------------------------------------------------------------------ points and kinds


@pytest.mark.parametrize("component", WRITABLE)
def test_every_point_can_be_edited(grpc_transport: GrpcTransport, folder: Path, component: str) -> None:
    layer = 1 if sites.COMPONENTS[component].has_layer else None
    value = operation(ACTIVATION, "*", constant(0.5))
    check(grpc_transport, folder, edit(component, layer, value, positions=[2, 5, -1]))


@pytest.mark.parametrize("component", ["query", "attention_scores", "attention_pattern", "head_output", "q_proj"])
def test_heads_are_edited_alone(grpc_transport: GrpcTransport, folder: Path, component: str) -> None:
    value = operation(ACTIVATION, "*", constant(0.25))
    check(grpc_transport, folder, edit(component, 2, value, heads=[1, -1]))
    check(grpc_transport, folder, edit(component, 2, value, heads=[3], positions=[7, 4]))


def kinds(folder: Path) -> dict[str, edit_pb.Intervention]:
    width = width_of(folder, "resid_post", 1)[-1]
    direction, reference = RNG.normal(size=width), RNG.normal(size=(1, 6, width))
    donor = RNG.normal(size=(len(IDS), width))
    nested = operation(operation(ACTIVATION, "-", stored(direction)), "/", operation(constant(2), "+", constant(1)))
    return {
        "zero": edit("mlp_out", 1, constant(0)),
        "mean": edit(
            "resid_post",
            1,
            edit_pb.Expression(reference_mean=edit_pb.ReferenceMean(reference=tensor(reference))),
        ),
        "scale": edit("attn_out", 1, operation(constant(3), "*", ACTIVATION)),
        "add": edit("resid_post", 1, operation(ACTIVATION, "+", operation(constant(4), "*", stored(direction)))),
        "replace everywhere": edit("resid_post", 1, stored(donor)),
        "replace some": edit("resid_mid", 1, stored(donor[:3]), positions=slice(4, 7)),
        "replace in an order": edit("resid_post", 1, stored(donor[:3]), positions=[8, 0, -1]),
        "project out": edit(
            "resid_post",
            1,
            edit_pb.Expression(project_out=edit_pb.ProjectOut(operand=ACTIVATION, direction=tensor(direction))),
        ),
        "clamp": edit(
            "mlp_neurons", 1, edit_pb.Expression(clamp=edit_pb.Clamp(operand=ACTIVATION, minimum=-0.05, maximum=0.1))
        ),
        "clamp from below": edit(
            "mlp_neurons", 1, edit_pb.Expression(clamp=edit_pb.Clamp(operand=ACTIVATION, minimum=0.01))
        ),
        "an expression": edit("resid_pre", 2, nested, positions=slice(-4, None)),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "zero",
        "mean",
        "scale",
        "add",
        "replace everywhere",
        "replace some",
        "replace in an order",
        "project out",
        "clamp",
        "clamp from below",
        "an expression",
    ],
)
def test_every_kind(grpc_transport: GrpcTransport, folder: Path, kind: str) -> None:
    check(grpc_transport, folder, kinds(folder)[kind])


@pytest.mark.parametrize("chunk_budget_bytes", [40_000, 200_000])
def test_chunks_do_not_matter(grpc_transport: GrpcTransport, folder: Path, chunk_budget_bytes: int) -> None:
    every = kinds(folder)
    for kind in ("replace everywhere", "replace in an order", "an expression"):
        check(grpc_transport, folder, every[kind], chunk_budget_bytes=chunk_budget_bytes)


def test_edits_of_one_point_apply_in_order(grpc_transport: GrpcTransport, folder: Path) -> None:
    first = edit("resid_post", 1, operation(ACTIVATION, "+", constant(1)))
    second = edit("resid_post", 1, operation(ACTIVATION, "*", constant(2)), positions=slice(3, None))
    check(grpc_transport, folder, first, second)
    check(grpc_transport, folder, second, first)


def test_every_layer_at_once(grpc_transport: GrpcTransport, folder: Path) -> None:
    check(grpc_transport, folder, edit("mlp_out", None, operation(ACTIVATION, "*", constant(0.5))))


def test_another_prompts_activation(grpc_transport: GrpcTransport, folder: Path) -> None:
    """Patching from a row that comes later in the request; the donor itself is untouched."""
    patch = edit(
        "resid_post",
        2,
        edit_pb.Expression(other_row=edit_pb.OtherRow(row=1)),
        rows=[0],
        positions=[-1, 3],
        steps=slice(0, 1),
    )
    donor = forward(folder, OTHER_IDS)
    row = Row(len(IDS), others={1: OtherPrompt(donor, len(OTHER_IDS))})
    expected = forward(folder, IDS, edits_of([patch], row, num_layers=LAYERS))
    for budget in (0, 40_000):
        recording = captured(
            grpc_transport, folder.name, [patch], prompts=[prompt(IDS), prompt(OTHER_IDS)], chunk_budget_bytes=budget
        )
        assert_is(recording, expected)
        assert_is(recording, donor, row=1)


def test_another_prompt_while_generating(grpc_transport: GrpcTransport, family: str) -> None:
    """Positions of the prompt need no step; a batch of both generates as the patched prompt alone would."""
    patch = edit("resid_post", 1, edit_pb.Expression(other_row=edit_pb.OtherRow(row=1)), rows=[0], positions=[2, 4])
    donor = captured(grpc_transport, family, [], prompts=[prompt(OTHER_IDS)]).array("resid_post", 1)
    given = edit("resid_post", 1, stored(donor[0, [2, 4]]), positions=[2, 4])
    request = generate_request(
        [prompt(IDS), prompt(OTHER_IDS)], model_id=family, interventions=[patch], max_tokens=8, ignore_eos=True
    )
    patched = record(grpc_transport, request)
    assert patched.token_ids(0) == generated(grpc_transport, family, given, max_tokens=8).token_ids()
    endless = edit("resid_post", 1, edit_pb.Expression(other_row=edit_pb.OtherRow(row=1)), rows=[0])
    request = generate_request([prompt(IDS)] * 2, model_id=family, interventions=[endless])
    with pytest.raises(errors.InvalidRequestError) as caught:
        record(grpc_transport, request)
    assert caught.value.field == "interventions[0].value.other_row.row"


def test_an_edit_of_scores_shows_no_future(grpc_transport: GrpcTransport, family: str) -> None:
    recording = captured(grpc_transport, family, [edit("attention_scores", 1, constant(0))])
    pattern = recording.array("attention_pattern", 1)
    visible = np.tril(np.ones((len(IDS), len(IDS))))
    np.testing.assert_allclose(pattern, np.broadcast_to(visible / visible.sum(-1, keepdims=True), pattern.shape), 1e-5)


def test_all_of_another_prompt_is_its_answer(grpc_transport: GrpcTransport, folder: Path) -> None:
    patch = edit("resid_post", 1, edit_pb.Expression(other_row=edit_pb.OtherRow(row=1)), rows=[0], steps=slice(0, 1))
    recording = captured(grpc_transport, folder.name, [patch], prompts=[prompt(IDS), prompt(OTHER_IDS)])
    assert np.array_equal(recording.array("resid_post", 3), recording.array("resid_post", 3, row=1))


# ------------------------------------------------------------------------------------------------ while generating


def generated(transport: GrpcTransport, family: str, *edits: edit_pb.Intervention, **fields: Any) -> Recording:
    fields = {"max_tokens": 12, "ignore_eos": True} | fields
    return record(transport, generate_request(prompt(IDS), *READ, model_id=family, interventions=edits, **fields))


@pytest.mark.parametrize(
    "case",
    {
        "all steps": edit("resid_post", 1, operation(ACTIVATION, "*", constant(1.5))),
        "generated tokens": edit("mlp_out", 2, constant(0), steps=slice(1, None)),
        "the prompt": edit("head_output", 1, constant(0), heads=[2, 5], steps=slice(0, 1)),
        "some steps": edit("attn_out", 3, operation(ACTIVATION, "-", constant(0.5)), steps=slice(3, 7)),
        "one position": edit("resid_mid", 1, operation(ACTIVATION, "*", constant(-2)), positions=[len(IDS) + 2]),
        "keys stay edited": edit("key", 2, operation(ACTIVATION, "*", constant(2)), positions=[3, len(IDS) + 1]),
        "values stay edited": edit("value", 1, constant(0), positions=[0, len(IDS)]),
        "patterns": edit("attention_pattern", 1, operation(ACTIVATION, "*", constant(0.5)), heads=[0]),
        "scores": edit("attention_scores", 1, operation(ACTIVATION, "*", constant(0.5)), steps=slice(2, None)),
    }.items(),
    ids=lambda case: case[0],
)
def test_edits_while_generating(grpc_transport: GrpcTransport, folder: Path, case: Any) -> None:
    """The tokens that came are fed to the referee; its activations are those that were captured step by step."""
    recording = generated(grpc_transport, folder.name, case[1])
    ids = [*IDS, *recording.token_ids()[:-1]]
    expected = forward(folder, ids, edits_of([case[1]], Row(len(IDS)), num_layers=LAYERS))
    assert_is(recording, expected, GENERATED)
    logits = expected["logits", None][0, len(IDS) - 1 :]
    assert recording.token_ids() == [int(np.argmax(row)) for row in logits]


def test_edited_generations_in_company(grpc_transport: GrpcTransport, family: str) -> None:
    """Beside each other and plain ones, every edit reaches its own row alone."""
    edits = [
        (),
        (edit("resid_post", 1, operation(ACTIVATION, "*", constant(1.5))),),
        (edit("attention_pattern", 1, operation(ACTIVATION, "*", constant(0.5)), heads=[0]),),
        (edit("head_output", 1, constant(0), heads=[2]), edit("mlp_out", 2, constant(0), steps=slice(1, None))),
        (edit("attention_scores", 2, operation(ACTIVATION, "*", constant(0.5))),),
        (edit("key", 2, operation(ACTIVATION, "*", constant(2)), steps=slice(1, None)),),
    ]
    alone = [generated(grpc_transport, family, *some) for some in edits]
    requests = [
        generate_request(prompt(IDS), *READ, model_id=family, interventions=some, max_tokens=12, ignore_eos=True)
        for some in edits
    ]
    followers = [Follower(grpc_transport, request) for request in requests]
    for index, (follower, expected) in enumerate(zip(followers, alone, strict=True)):
        together = follower.wait()
        assert together.token_ids() == expected.token_ids(), index
        arrays = together.arrays()
        for point, array in expected.arrays().items():
            masked = point[0] == "attention_scores"
            assert relative_error(arrays[point], array, exclude_masked=masked) <= GENERATED, point


def test_noise_is_the_same_for_the_same_seed(grpc_transport: GrpcTransport, family: str) -> None:
    """However the prompt is cut; independent between positions and layers, of the right size; and it flows on."""

    def noisy(seed: int, budget: int = 0, layer: int = 1) -> NDArray[np.float64]:
        noise = edit_pb.Expression(noise=edit_pb.Noise(seed=seed, standard_deviation=2.0, mean=1.0))
        recording = captured(grpc_transport, family, [edit("resid_post", layer, noise)], chunk_budget_bytes=budget)
        return recording.array("resid_post", layer).astype(np.float64)

    first = noisy(1)
    assert np.array_equal(first, noisy(1))
    assert np.array_equal(first, noisy(1, budget=40_000))
    assert abs(first.mean() - 1) < 0.25
    assert abs(first.std() - 2) < 0.25
    for other in (noisy(2), noisy(1, layer=2)):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.15
    assert abs(np.corrcoef(first[0, 0], first[0, 1])[0, 1]) < 0.4


# ------------------------------------------------------------------------------------------------ steering


def steer(transport: GrpcTransport, generation_id: str, *edits: edit_pb.Intervention) -> int:
    response: Any = transport.unary(
        RPCS["Steer"], pb.SteerRequest(generation_id=generation_id, interventions=edits), timeout_s=30
    )
    return response.first_step


def test_in_lockstep_the_very_next_step_is_steered(grpc_transport: GrpcTransport, folder: Path) -> None:
    name = f"steered {folder.name}"
    request = generate_request(
        prompt(IDS), *READ, model_id=folder.name, max_tokens=8, ignore_eos=True, max_steps_ahead=1, generation_id=name
    )
    change = operation(ACTIVATION, "*", constant(1.5))
    follower = Follower(grpc_transport, request)
    for step in range(8):
        assert follower.next_token() is not None
        if step == 2:
            assert steer(grpc_transport, name, edit("resid_post", 1, change)) == 3
        if step == 5:
            assert steer(grpc_transport, name) == 6
        if step < 7:
            grpc_transport.unary(RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id=name, steps=1))
    recording = follower.wait()
    ids = [*IDS, *recording.token_ids()[:-1]]
    same = edits_of([edit("resid_post", 1, change, steps=slice(3, 6))], Row(len(IDS)), num_layers=LAYERS)
    assert_is(recording, forward(folder, ids, same), GENERATED)


def test_a_free_generation_is_steered_from_the_step_that_is_named(grpc_transport: GrpcTransport, folder: Path) -> None:
    name = f"free {folder.name}"
    request = generate_request(
        prompt(IDS), "resid_post", model_id=folder.name, max_tokens=150, ignore_eos=True, generation_id=name
    )
    change = operation(ACTIVATION, "*", constant(1.5))
    follower = Follower(grpc_transport, request)
    assert follower.next_token() is not None
    first = steer(grpc_transport, name, edit("resid_post", 1, change))
    recording = follower.wait()
    assert 1 <= first < 150
    ids = [*IDS, *recording.token_ids()[:-1]]
    same = edits_of([edit("resid_post", 1, change, steps=slice(first, None))], Row(len(IDS)), num_layers=LAYERS)
    assert_is(recording, forward(folder, ids, same), GENERATED)


@pytest.mark.parametrize("company", [0, 2])
def test_steering_may_change_how_attention_is_computed(
    grpc_transport: GrpcTransport, folder: Path, company: int
) -> None:
    """Into the edited pattern's own batch and back, alone and out of a batch of others."""
    others = [
        Follower(
            grpc_transport, generate_request(prompt(OTHER_IDS), model_id=folder.name, max_tokens=200, ignore_eos=True)
        )
        for _ in range(company)
    ]
    name = f"patterns {folder.name} {company}"
    request = generate_request(
        prompt(IDS), *READ, model_id=folder.name, max_tokens=9, ignore_eos=True, max_steps_ahead=1, generation_id=name
    )
    halved = operation(ACTIVATION, "*", constant(0.5))
    follower = Follower(grpc_transport, request)
    for step in range(9):
        assert follower.next_token() is not None
        if step == 2:
            assert steer(grpc_transport, name, edit("attention_pattern", 1, halved, heads=[0])) == 3
        if step == 5:
            assert steer(grpc_transport, name) == 6
        if step < 8:
            grpc_transport.unary(RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id=name, steps=1))
    recording = follower.wait()
    for other in others:
        other.close()
    ids = [*IDS, *recording.token_ids()[:-1]]
    same = [edit("attention_pattern", 1, halved, heads=[0], steps=slice(3, 6))]
    assert_is(recording, forward(folder, ids, edits_of(same, Row(len(IDS)), num_layers=LAYERS)), GENERATED)


# ------------------------------------------------------------------------------------------------ refusals

ADDED = operation(ACTIVATION, "+", stored(np.ones(7)))
REFUSALS: dict[str, tuple[Sequence[edit_pb.Intervention], type[errors.MLXIntegrationError], str]] = {
    "a point that the model lacks": (
        [edit("router_logits", 1, constant(0))],
        errors.UnavailableSiteError,
        "interventions[0].site.component",
    ),
    "an unknown point": ([edit("resid_pots", 1, constant(0))], errors.UnknownSiteError, "interventions[0].site"),
    "a layer out of range": ([edit("resid_post", 9, constant(0))], errors.UnknownSiteError, "interventions[0].site"),
    "a shape that does not fit": (
        [edit("resid_post", 1, ADDED)],
        errors.DataConversionError,
        "interventions[0].value.binary.right.tensor",
    ),
    "too many positions": (
        [edit("resid_post", 1, stored(np.ones((11, 128))))],
        errors.DataConversionError,
        "interventions[0].value.tensor",
    ),
    "a donor of integers": (
        [edit("resid_post", 1, edit_pb.Expression(tensor=tensor(np.ones(128), np.int32)))],
        errors.DataConversionError,
        "interventions[0].value.tensor",
    ),
    "a NaN direction": (
        [edit("resid_post", 1, operation(ACTIVATION, "+", stored([float("nan")] * 128)))],
        errors.DataConversionError,
        "interventions[0].value.binary.right.tensor",
    ),
    "an infinite constant": (
        [edit("resid_post", 1, constant(float("inf")))],
        errors.InvalidRequestError,
        "interventions[0].value.constant",
    ),
    "a zero direction": (
        [
            edit(
                "resid_post",
                1,
                edit_pb.Expression(project_out=edit_pb.ProjectOut(operand=ACTIVATION, direction=tensor(np.zeros(128)))),
            )
        ],
        errors.InvalidRequestError,
        "interventions[0].value.project_out.direction",
    ),
    "an empty expression": (
        [edit("resid_post", 1, edit_pb.Expression())],
        errors.InvalidRequestError,
        "interventions[0].value",
    ),
    "no operator": (
        [edit("resid_post", 1, edit_pb.Expression(binary=edit_pb.BinaryOperation(left=ACTIVATION, right=ACTIVATION)))],
        errors.InvalidRequestError,
        "interventions[0].value.binary.operator",
    ),
    "a clamp upside down": (
        [edit("resid_post", 1, edit_pb.Expression(clamp=edit_pb.Clamp(operand=ACTIVATION, minimum=1, maximum=0)))],
        errors.InvalidRequestError,
        "interventions[0].value.clamp.minimum",
    ),
    "a position outside the prompt": (
        [edit("resid_post", 1, constant(0), positions=[99])],
        errors.InvalidRequestError,
        "interventions[0].select",
    ),
    "a head out of range": (
        [edit("head_output", 1, constant(0), heads=[8])],
        errors.InvalidRequestError,
        "interventions[0].select.heads",
    ),
    "heads where there are none": (
        [edit("resid_post", 1, constant(0), heads=[0])],
        errors.InvalidRequestError,
        "interventions[0].select.heads",
    ),
    "a row out of range": (
        [edit("resid_post", 1, constant(0), rows=[1])],
        errors.InvalidRequestError,
        "interventions[0].select.rows",
    ),
    "a step that a capture does not have": (
        [edit("resid_post", 1, constant(0), steps=slice(1, None))],
        errors.InvalidRequestError,
        "interventions[0].select",
    ),
    "two that contradict each other": (
        [edit("resid_post", 1, constant(1)), edit("resid_post", 1, constant(2), positions=[3])],
        errors.InvalidRequestError,
        "interventions[1]",
    ),
    "its own row": (
        [edit("resid_post", 1, edit_pb.Expression(other_row=edit_pb.OtherRow(row=0)), steps=slice(0, 1))],
        errors.InvalidRequestError,
        "interventions[0].select",
    ),
    "a tensor that nobody uploaded": (
        [edit("resid_post", 1, edit_pb.Expression(tensor=tensor_pb2.TensorReference(tensor_id="nothing")))],
        errors.UnknownIdError,
        "interventions[0].value.tensor.tensor_id",
    ),
    "a division by zero": (
        [edit("resid_post", 1, operation(constant(1), "/", constant(0)))],
        errors.DataConversionError,
        "interventions[0]",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_is_refused(grpc_transport: GrpcTransport, family: str, name: str) -> None:
    edits, kind, field = REFUSALS[name]
    with pytest.raises(kind) as caught:
        captured(grpc_transport, family, edits)
    assert type(caught.value) is kind
    assert caught.value.field.startswith(field), caught.value.field
    assert_is(captured(grpc_transport, family, []), captured_plainly(grpc_transport, family))


def captured_plainly(transport: GrpcTransport, family: str) -> Activations:
    return captured(transport, family, []).arrays()


def test_an_edit_that_was_never_applied_fails_at_the_end(grpc_transport: GrpcTransport, family: str) -> None:
    late = edit("resid_post", 1, constant(0), steps=slice(30, None), name="late")
    request = generate_request(
        prompt(IDS), model_id=family, interventions=[late], max_tokens=40, stop_token_ids=list(range(512))
    )
    with pytest.raises(errors.HookNeverFiredError, match="late"):
        record(grpc_transport, request)


def test_a_failing_edit_leaves_the_others_alone(grpc_transport: GrpcTransport, family: str) -> None:
    """A number that is not finite, in a batch, some steps in."""
    bad = edit("resid_post", 1, operation(constant(1), "/", constant(0)), steps=slice(5, None))
    plain = generated(grpc_transport, family)
    request = generate_request(prompt(IDS), *READ, model_id=family, max_tokens=12, ignore_eos=True)
    followers = [Follower(grpc_transport, request) for _ in range(3)]
    with pytest.raises(errors.DataConversionError, match="not finite") as caught:
        generated(grpc_transport, family, bad)
    assert caught.value.field == "interventions[0]"
    for follower in followers:
        assert follower.wait().token_ids() == plain.token_ids()


def test_steering_what_does_not_run_is_an_error(grpc_transport: GrpcTransport, inference: Service) -> None:
    with pytest.raises(errors.UnknownIdError):
        steer(grpc_transport, "nobody", edit("resid_post", 1, constant(0)))
