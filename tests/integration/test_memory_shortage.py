"""Memory that runs short: smaller chunks and batches, the same numbers, and a result that says so.

python -m pytest tests/integration/test_memory_shortage.py
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from neuroscope import edit
from neuroscope.errors import MLXIntegrationError, ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.decode_batch import DecodeBatch
from neuroscope_inference.engine.memory import OutOfMemoryError
from neuroscope_inference.local import LocalTransport
from tests.support.compare import relative_error
from tests.support.random_models import make_model
from tests.support.recording import Recording, capture_request, generate_request, prompt, record
from tests.support.services import inference_service

FAMILIES = ("llama", "gemma3_text")  # the second keeps keys in a ring
IDS = list(range(20, 90))
CHUNK = 32
TOLERANCE = 1e-5
METAL = "[metal::malloc] Attempting to allocate 73014444032 bytes which is greater than the maximum allowed buffer size"


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTransport]:
    """In this process, where allocations can be made to fail."""
    folder = tmp_path_factory.mktemp("families")
    transport = LocalTransport(model=[str(make_model(family, folder / family)) for family in FAMILIES])
    yield transport
    transport.close()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes chosen chunks of the next prefill fail once they have been computed; gives the chunks that were tried."""

    def fail(fails: Callable[[int], bool], error: Exception) -> list[int]:
        tried: list[int] = []
        evaluate = mx.eval

        def evaluating(*arrays: Any) -> None:
            evaluate(*arrays)
            if threading.current_thread().name == "neuroscope-engine" and len(arrays) == 3:  # a chunk
                tried.append(len(tried))
                if fails(tried[-1]):
                    raise error

        monkeypatch.setattr(mx, "eval", evaluating)
        return tried

    return fail


def capture(model_id: str, **fields: Any) -> pb.CaptureRequest:
    """Whole and reduced captures in chunks of 32 positions; prompt 1 takes an activation of prompt 0."""
    hooks = (Hook("resid_post"), Hook("mlp_out", 1, reduce="mean"))
    donated = edit("resid_post", 1, lambda act: act.replace(act.row(0)), positions=slice(0, 60), rows=[1], steps=0)
    one_position_bytes = 4 * 4 * 128  # resid_post of four layers
    return capture_request(
        [prompt(IDS), prompt(IDS[::-1])],
        *hooks,
        model_id=model_id,
        chunk_budget_bytes=CHUNK * one_position_bytes,
        interventions=[donated.message],
        **fields,
    )


def assert_same(found: Recording, expected: Recording) -> None:
    for row in range(2):
        for layer in range(4):
            one, other = (recording.array("resid_post", layer, row=row) for recording in (found, expected))
            assert relative_error(one, other) < TOLERANCE, (layer, row)
        (one,), (other,) = (recording.of("mlp_out", 1, row=row) for recording in (found, expected))
        assert relative_error(one.array, other.array) < TOLERANCE, row


def chunks(recording: Recording, row: int) -> list[int]:
    """Positions of each chunk."""
    return [piece.array.shape[1] for piece in recording.of("resid_post", 0, row=row)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("error", [RuntimeError(METAL), MemoryError()], ids=["metal", "bad_alloc"])
def test_a_chunk_is_halved_and_computed_again(
    transport: LocalTransport, failing: Callable[..., list[int]], family: str, error: Exception
) -> None:
    undisturbed = record(transport, capture(family))
    assert chunks(undisturbed, 0) == chunks(undisturbed, 1) == [32, 32, 6]
    assert undisturbed.manifest is not None
    assert not undisturbed.manifest.warnings
    failing(lambda number: number == 1, error)
    recording = record(transport, capture(family))
    assert chunks(recording, 0) == [32, 16, 16, 6]
    assert chunks(recording, 1) == [16, 16, 16, 16, 6]  # the request's, for good
    assert_same(recording, undisturbed)
    assert recording.manifest is not None
    (warning,) = recording.manifest.warnings
    assert "at position 32 of prompt 0" in warning
    assert "at most 16 positions" in warning
    assert chunks(record(transport, capture(family)), 0) == [32, 32, 6]  # another request has its own


def test_a_generation_goes_on_as_if_nothing_had_happened(
    transport: LocalTransport, failing: Callable[..., list[int]]
) -> None:
    request = generate_request(prompt(IDS), "resid_post.0", max_tokens=6, ignore_eos=True, seed=3, temperature=1.0)
    undisturbed = record(transport, request)
    failing(lambda number: number in (0, 1, 3), RuntimeError(METAL))
    recording = record(transport, request)
    assert recording.token_ids() == undisturbed.token_ids()
    assert [piece.array.shape[1] for piece in recording.pieces if piece.step == 0] == [17] + [8] * 6 + [5]
    assert relative_error(recording.array("resid_post", 0), undisturbed.array("resid_post", 0)) < TOLERANCE


def test_a_single_position_too_much_is_an_error_of_that_request_alone(
    transport: LocalTransport, failing: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(lambda number: True, RuntimeError(METAL))
    with pytest.raises(ResourceExhaustedError, match=r"does not hold position 0 of prompt 0: .*allocate"):
        record(transport, capture("llama"))
    assert len(tried) == 6  # 32, 16, 8, 4, 2, 1
    monkeypatch.undo()
    record(transport, capture("llama"))


# Decode steps, of rows that share a batch.


DECODED = [IDS[:9], IDS[3:20], IDS[30:35], IDS[40:52]]


def generations() -> pb.GenerateRequest:
    """Four rows that are read, reduced over all steps, and edited while they go on."""
    steered = edit("mlp_out", 2, lambda act: act * 0.5, rows=[1], steps=slice(1, 5))
    donated = edit("resid_post", 1, lambda act: act.replace(act.row(0)), positions=slice(0, 5), rows=[2], steps=0)
    return generate_request(
        [prompt(ids) for ids in DECODED],
        Hook("resid_post", 3),
        Hook("attn_out", 1, reduce="mean"),
        max_tokens=8,
        ignore_eos=True,
        seed=3,
        temperature=1.0,
        interventions=[steered.message, donated.message],
    )


@pytest.fixture
def failing_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes decode steps of more rows than one may have fail, as they are launched or as they are waited for."""

    def fail(most_rows: int, *, launched: bool, times: int = 1000) -> list[int]:
        counts: list[int] = []
        step, land = DecodeBatch.launch, mx.eval
        doomed: list[mx.array] = []

        def launching(batch: DecodeBatch, rows: Any) -> None:
            step(batch, rows)
            counts.append(len(rows))
            is_failing = len(rows) > most_rows and sum(count > most_rows for count in counts) <= times
            if is_failing and launched:
                raise OutOfMemoryError(METAL)
            if is_failing:
                doomed.extend(row.launched_steps[-1].draw.token for row in rows)

        def landing(*arrays: Any) -> None:
            land(*arrays)
            is_step = threading.current_thread().name == "neuroscope-engine" and len(arrays) == 1
            if is_step and any(array is other for array in arrays[0] for other in doomed):
                raise RuntimeError(METAL)

        monkeypatch.setattr(DecodeBatch, "launch", launching)
        if not launched:
            monkeypatch.setattr(mx, "eval", landing)
        return counts

    return fail


@pytest.mark.parametrize("launched", [True, False], ids=["as it is launched", "as it is waited for"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_rows_share_a_step_and_the_lost_ones_are_computed_again(
    transport: LocalTransport, failing_steps: Callable[..., list[int]], family: str, launched: bool
) -> None:
    request = generations()
    request.model_id = family
    undisturbed = record(transport, request)
    counts = failing_steps(1, launched=launched)
    recording = record(transport, request)
    assert counts[0] == 4
    assert 2 in counts
    assert counts[-1] == 1
    for row in range(4):
        assert recording.token_ids(row) == undisturbed.token_ids(row), row
        one, other = (found.array("resid_post", 3, row=row) for found in (recording, undisturbed))
        assert relative_error(one, other) < TOLERANCE, row
        one, other = (found.of("attn_out", 1, row=row)[-1].array for found in (recording, undisturbed))
        assert relative_error(one, other) < TOLERANCE, row
    assert recording.manifest is not None
    (warning,) = recording.manifest.warnings
    assert "at most 1 rows have shared a decode step since" in warning
    assert "allocate" in warning


def test_a_step_too_large_alone_ends_that_request_and_no_other(
    transport: LocalTransport, failing_steps: Callable[..., list[int]]
) -> None:
    failing_steps(0, launched=True, times=1)
    with pytest.raises(ResourceExhaustedError, match="does not hold step 1 of prompt 0"):
        record(transport, generate_request(prompt(IDS), max_tokens=4, ignore_eos=True))
    record(transport, generate_request(prompt(IDS), max_tokens=4, ignore_eos=True))


def test_a_limit_makes_batches_smaller_without_a_step_lost(
    transport: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = generations()
    undisturbed = record(transport, request)
    monkeypatch.setattr(memory, "excess", lambda _: "MLX held more")  # read after steps; prefills fit
    monkeypatch.setattr(memory, "limited", lambda _: contextlib.nullcontext())
    recording = record(transport, request)
    assert [recording.token_ids(row) for row in range(4)] == [undisturbed.token_ids(row) for row in range(4)]
    assert recording.manifest is not None
    assert "MLX held more" in recording.manifest.warnings[0]


def test_another_failure_is_not_taken_for_it(transport: LocalTransport, failing: Callable[..., list[int]]) -> None:
    failing(lambda number: True, RuntimeError("the moon is full"))
    with pytest.raises(MLXIntegrationError, match="the moon is full") as caught:
        record(transport, capture("llama"))
    assert type(caught.value) is MLXIntegrationError


def test_the_limit_of_the_settings_says_its_name(llama_dir: Path) -> None:
    """Over gRPC, with a limit that the weights alone exceed."""
    with inference_service(llama_dir, arguments=("--memory-limit-bytes", "1")) as service:
        transport = GrpcTransport(service.target)
        with pytest.raises(ResourceExhaustedError, match="memory_limit_bytes allows"):
            record(transport, generate_request(prompt(IDS), max_tokens=2))
        listed: Any = transport.unary(RPCS["ListModels"], pb.ListModelsRequest())
        assert len(listed.models) == 1
        transport.close()
