"""Everything that is captured over gRPC against an independent float64 forward pass in numpy.

python -m pytest tests/integration/test_truth_of_captures.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support import numpy_forward
from tests.support.compare import assert_all_close, assert_close, relative_error
from tests.support.recording import Recording, capture_request, generate_request, positions_of, prompt, record

FAMILIES = ("llama", "gpt2")
ROUTING = {"router_logits", "expert_indices", "expert_weights"}
EVERYTHING = [name for name in COMPONENTS if name not in ROUTING]
DECODE_STEPS = 32
TOLERANCE = 5e-6
IDS = [0, *np.random.default_rng(7).integers(5, 500, 23).tolist()]
SHORT_IDS = IDS[:5]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, llama_dir: Path, gpt2_dir: Path) -> Path:
    return {"llama": llama_dir, "gpt2": gpt2_dir}[family]


@pytest.fixture(scope="module")
def capture(grpc_transport: GrpcTransport, family: str) -> Callable[..., Recording]:
    def run(*hooks: Any, ids: list[int] = IDS, **fields: Any) -> Recording:
        return record(grpc_transport, capture_request(prompt(ids), *hooks, model_id=family, **fields))

    return run


@pytest.fixture(scope="module")
def whole(capture: Callable[..., Recording]) -> Recording:
    """Everything that the model offers, in one capture."""
    return capture(*EVERYTHING, Hook("attn_out", is_input=True), Hook("mlp_out", is_input=True))


@pytest.fixture(scope="module")
def generated(grpc_transport: GrpcTransport, family: str) -> Recording:
    """Everything, captured during the prefill and 32 decode steps."""
    request = generate_request(
        prompt(SHORT_IDS), *EVERYTHING, model_id=family, max_tokens=DECODE_STEPS + 1, ignore_eos=True
    )
    return record(grpc_transport, request)


def test_every_component_of_a_dense_model_is_offered(grpc_transport: GrpcTransport, family: str) -> None:
    described: Any = grpc_transport.unary(RPCS["GetModel"], pb.GetModelRequest(model_id=family))
    assert {point.site.component for point in described.points if point.available} == set(EVERYTHING)
    assert all(point.available == (point.site.component not in ROUTING) for point in described.points)


def test_a_capture_is_the_numpy_forward_pass(whole: Recording, folder: Path) -> None:
    expected = numpy_forward.forward(folder, IDS)
    seen = whole.arrays()
    assert set(seen) == set(expected)
    assert_all_close(seen, expected, tolerance=TOLERANCE)


def test_the_input_side_is_what_the_module_reads(whole: Recording, folder: Path) -> None:
    expected = numpy_forward.forward(folder, IDS)
    for layer in range(4):
        for component, source in (("attn_out", "ln1"), ("mlp_out", "ln2")):
            tested = whole.array(component, layer, is_input=True)
            assert_close((f"{component}.input", layer), tested, expected[source, layer], tolerance=TOLERANCE)


def test_captured_while_generating_is_the_numpy_forward_pass(generated: Recording, folder: Path) -> None:
    sequence = [*SHORT_IDS, *generated.token_ids()[:-1]]  # the last token is not read
    assert len(sequence) == len(SHORT_IDS) + DECODE_STEPS
    expected = numpy_forward.forward(folder, sequence)
    seen = generated.arrays()
    assert set(seen) == set(expected)
    assert_all_close(seen, expected, tolerance=1e-5)


def test_captured_while_generating_is_one_full_capture(generated: Recording, capture: Callable[..., Recording]) -> None:
    sequence = [*SHORT_IDS, *generated.token_ids()[:-1]]
    assert_all_close(generated.arrays(), capture(*EVERYTHING, ids=sequence).arrays(), tolerance=1e-5)


def test_each_step_brings_one_piece_of_one_position(generated: Recording) -> None:
    pieces = generated.of("resid_post", 2)
    assert [piece.step for piece in pieces] == list(range(DECODE_STEPS + 1))
    assert [piece.first_position for piece in pieces] == [0, *range(len(SHORT_IDS), len(SHORT_IDS) + DECODE_STEPS)]
    assert [piece.array.shape[1] for piece in pieces] == [len(SHORT_IDS)] + [1] * DECODE_STEPS


@pytest.mark.parametrize("budget_bytes", [1, 40_000, 200_000])
def test_chunks_hold_what_the_whole_holds(
    whole: Recording, capture: Callable[..., Recording], budget_bytes: int
) -> None:
    chunked = capture(*EVERYTHING, chunk_budget_bytes=budget_bytes)
    assert chunked.plan is not None
    pieces = chunked.of("resid_post", 0)
    assert len(pieces) == -(-len(IDS) // chunked.plan.chunk_positions)
    assert len(pieces) > 1
    assert_all_close(chunked.arrays(), whole.arrays(), tolerance=1e-5)


def test_the_pattern_of_a_chunk_reaches_back_to_the_first_key(capture: Callable[..., Recording]) -> None:
    for piece in capture("attention_pattern.1", chunk_budget_bytes=1).of("attention_pattern", 1):
        assert piece.array.shape == (1, 8, 1, piece.first_position + 1)
        assert_close("row sums", piece.array.sum(-1), np.ones((1, 8, 1)), tolerance=1e-6)


# ------------------------------------------------------------------------------------------------ selectors

Cut = Callable[[NDArray[Any]], NDArray[Any]]

SELECTIONS: list[tuple[dict[str, Any], Cut]] = [
    ({"component": "resid_post", "layer": 1, "positions": 3}, lambda x: x[:, [3]]),
    ({"component": "resid_post", "layer": 1, "positions": -1}, lambda x: x[:, [23]]),
    ({"component": "resid_post", "layer": 1, "positions": [0, 7, 21]}, lambda x: x[:, [0, 7, 21]]),
    ({"component": "resid_post", "layer": 1, "positions": slice(4, 9)}, lambda x: x[:, 4:9]),
    ({"component": "resid_post", "layer": 1, "positions": slice(-5, None)}, lambda x: x[:, -5:]),
    ({"component": "resid_post", "layer": 1, "positions": slice(2, -3)}, lambda x: x[:, 2:-3]),
    ({"component": "resid_post", "layer": 1, "positions": slice(20, 400)}, lambda x: x[:, 20:]),
    ({"component": "logits", "positions": -1}, lambda x: x[:, [-1]]),
    ({"component": "head_output", "layer": 2, "heads": [0, 7]}, lambda x: x[:, :, [0, 7]]),
    ({"component": "head_output", "layer": 2, "heads": [-1, 3]}, lambda x: x[:, :, [7, 3]]),
    ({"component": "head_output", "layer": 2, "heads": [4], "positions": slice(1, 3)}, lambda x: x[:, 1:3, [4]]),
    ({"component": "value", "layer": 2, "heads": [1]}, lambda x: x[:, :, [1]]),
    ({"component": "attention_pattern", "layer": 3, "heads": [5]}, lambda x: x[:, [5]]),
    ({"component": "attention_pattern", "layer": 3, "heads": [6, 2], "positions": -1}, lambda x: x[:, [6, 2], -1:]),
    ({"component": "attention_scores", "layer": 0, "positions": [1, 4]}, lambda x: x[:, :, [1, 4]]),
    ({"component": "mlp_neurons", "layer": 1, "dtype": "float16"}, lambda x: x.astype(np.float16)),
    ({"component": "mlp_neurons", "layer": 1, "dtype": "bfloat16"}, lambda x: x.astype(ml_dtypes.bfloat16)),
    ({"component": "mlp_neurons", "layer": 1, "dtype": "float32"}, lambda x: x),
    (
        {"component": "query", "layer": 1, "heads": [2], "positions": [3, 8], "dtype": "bfloat16"},
        lambda x: x[:, [3, 8]][:, :, [2]].astype(ml_dtypes.bfloat16),
    ),
]
ORDERED_LISTS: list[tuple[list[int], list[int]]] = [([-1, 2, 9], [23, 2, 9]), ([5, 5], [5, 5]), ([-24, -2], [0, 22])]


@pytest.mark.parametrize("chunk_budget_bytes", [0, 3000])
def test_selectors_are_numpy_slices_of_the_whole(capture: Callable[..., Recording], chunk_budget_bytes: int) -> None:
    """Exactly, bit for bit; the whole comes in the same chunks, since another chunking rounds otherwise."""
    selections = [Hook(**fields, hook_id=f"selection {number}") for number, (fields, _) in enumerate(SELECTIONS)]
    points = {(hook.component, hook.layer) for hook in selections}
    whole = [Hook(component, layer, hook_id="whole") for component, layer in sorted(points, key=str)]
    recording = capture(*selections, *whole, chunk_budget_bytes=chunk_budget_bytes)
    for hook, (_, cut) in zip(selections, SELECTIONS, strict=True):
        tested = recording.array(hook.component, hook.layer, hook_id=hook.hook_id)
        expected = cut(recording.array(hook.component, hook.layer, hook_id="whole"))
        if hook.component.startswith("attention"):  # a chunk has the key columns up to its own end
            expected = expected[..., : tested.shape[-1]]
        assert tested.dtype == expected.dtype, hook
        np.testing.assert_array_equal(tested, expected, err_msg=str(hook))


def test_a_list_of_positions_keeps_its_order(capture: Callable[..., Recording]) -> None:
    hooks = [Hook("resid_post", 1, positions=wanted, hook_id=str(wanted)) for wanted, _ in ORDERED_LISTS]
    recording = capture(*hooks, Hook("resid_post", 1, hook_id="whole"))
    whole = recording.array("resid_post", 1, hook_id="whole")
    for wanted, positions in ORDERED_LISTS:
        (piece,) = recording.of("resid_post", 1, hook_id=str(wanted))
        assert positions_of(piece) == positions
        np.testing.assert_array_equal(piece.array, whole[:, positions])


def test_steps_and_positions_of_a_generation_are_parts_of_the_whole(
    grpc_transport: GrpcTransport, family: str, generated: Recording
) -> None:
    length = len(SHORT_IDS)
    hooks = [
        Hook("resid_post", 2, steps=0, hook_id="prefill"),
        Hook("resid_post", 2, steps=slice(1, None), hook_id="decode"),
        Hook("resid_post", 2, steps=slice(3, 6), hook_id="three steps"),
        Hook("resid_post", 2, positions=slice(-2, None), hook_id="from the prompt's end"),
        Hook("resid_post", 2, positions=[1, length + 4], hook_id="one of each"),
    ]
    request = generate_request(prompt(SHORT_IDS), *hooks, model_id=family, max_tokens=9, ignore_eos=True)
    recording = record(grpc_transport, request)
    whole = generated.array("resid_post", 2)
    for hook_id, part in {
        "prefill": whole[:, :length],
        "decode": whole[:, length : length + 8],
        "three steps": whole[:, length + 2 : length + 5],
        "from the prompt's end": whole[:, length - 2 : length + 8],
        "one of each": whole[:, [1, length + 4]],
    }.items():
        np.testing.assert_array_equal(recording.array("resid_post", 2, hook_id=hook_id), part, err_msg=hook_id)


# ------------------------------------------------------------------------------------------------ batches

ROWS = [IDS[:9], IDS[:17], [0, 50, 60], IDS]


@pytest.fixture(scope="module")
def batch(grpc_transport: GrpcTransport, family: str) -> Recording:
    rows = [prompt(ids) for ids in ROWS]
    return record(grpc_transport, capture_request(rows, *EVERYTHING, model_id=family))


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_a_row_of_a_batch_is_the_prompt_alone(batch: Recording, capture: Callable[..., Recording], row: int) -> None:
    alone = capture(*EVERYTHING, ids=ROWS[row]).arrays()
    together = batch.arrays(row)
    assert set(together) == set(alone)
    for name, tensor in together.items():
        np.testing.assert_array_equal(tensor, alone[name], err_msg=str(name))


def test_rows_are_captured_where_the_selector_names_them(grpc_transport: GrpcTransport, family: str) -> None:
    request = capture_request([prompt(ids) for ids in ROWS], "resid_post.1", "resid_post.2", model_id=family)
    request.hooks[0].select.rows.extend([1, 3])
    recording = record(grpc_transport, request)
    assert recording.manifest is not None
    assert {(entry.plan_index, entry.row) for entry in recording.manifest.entries} == {
        *((0, row) for row in (1, 3)),
        *((1, row) for row in range(4)),
    }


def test_generating_in_a_batch_is_generating_alone(grpc_transport: GrpcTransport, family: str) -> None:
    fields: dict[str, Any] = {"model_id": family, "max_tokens": 8, "ignore_eos": True}
    together = record(grpc_transport, generate_request([prompt(ids) for ids in ROWS], *EVERYTHING, **fields))
    for row, ids in enumerate(ROWS):
        alone = record(grpc_transport, generate_request(prompt(ids), *EVERYTHING, **fields))
        assert together.token_ids(row) == alone.token_ids()
        assert together.text(row) == alone.text()
        assert_all_close(together.arrays(row), alone.arrays(), tolerance=1e-5)


# ------------------------------------------------------------------------------------------------ parts of the model


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_stop_at_layer_runs_the_layers_before_it(
    capture: Callable[..., Recording], whole: Recording, stop: int
) -> None:
    components = ["resid_post", "attention_pattern", "mlp_neurons"]
    hooks = ["embedding", *((component, layer) for component in components for layer in range(stop))]
    recording = capture(*hooks, stop_at_layer=stop)
    seen, expected = recording.arrays(), whole.arrays()
    assert len(seen) == 1 + 3 * stop
    for name, tensor in seen.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=str(name))


def test_stop_at_layer_gives_the_stream_that_enters_that_layer(
    capture: Callable[..., Recording], whole: Recording
) -> None:
    tested = capture("resid_pre.2", stop_at_layer=2).array("resid_pre", 2)
    np.testing.assert_array_equal(tested, whole.array("resid_post", 1))


def test_the_stream_is_the_embedding_and_what_the_blocks_add(whole: Recording) -> None:
    total = whole.array("resid_pre", 0).astype(np.float64)
    for layer in range(4):
        total += whole.array("attn_contrib", layer) + whole.array("mlp_contrib", layer)
    assert relative_error(total, whole.array("resid_post", 3)) < 2e-6
