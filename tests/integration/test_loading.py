"""Loading over gRPC: progress, files that are wrong in every way, ids, unloading while something runs.

python -m pytest tests/integration/test_loading.py
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from neuroscope.errors import (
    IdTakenError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    NeuroScopeIntegrationError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support.following import Follower
from tests.support.recording import capture_request, generate_request, prompt, record
from tests.support.services import Service, inference_service

IDS = [0, 50, 60, 70]


@pytest.fixture(scope="module")
def service(llama_dir: Path) -> Iterator[Service]:
    """A service of its own: what a damaged file does to it, it does to no other test."""
    with inference_service(llama_dir) as service:
        yield service


@pytest.fixture(scope="module")
def transport(service: Service) -> Iterator[GrpcTransport]:
    transport = GrpcTransport(service.target)
    yield transport
    transport.close()


@pytest.fixture
def still_serves(transport: GrpcTransport) -> Iterator[None]:
    """After the test the service has llama alone and generates with it."""
    yield
    assert model_ids(transport) == ["llama"]
    assert len(record(transport, generate_request(prompt(IDS), max_tokens=3, ignore_eos=True)).tokens) == 3


def load(transport: GrpcTransport, path: str | Path, **fields: Any) -> list[pb.LoadModelResponse]:
    """Everything that a load answers; the model comes last."""
    request = pb.LoadModelRequest(model_path=str(path), **fields)
    events: list[Any] = list(transport.stream(RPCS["LoadModel"], request, timeout_s=60))
    assert [event.WhichOneof("event") for event in events] == ["progress"] * (len(events) - 1) + ["model"]
    return events


def unload(transport: GrpcTransport, model_id: str) -> None:
    transport.unary(RPCS["UnloadModel"], pb.UnloadModelRequest(model_id=model_id), timeout_s=60)


def model_ids(transport: GrpcTransport) -> list[str]:
    response: Any = transport.unary(RPCS["ListModels"], pb.ListModelsRequest())
    return [model.model_id for model in response.models]


# ------------------------------------------------------------------------------------------------ what goes well


@pytest.mark.usefixtures("still_serves")
def test_progress_counts_bytes_and_never_goes_back(transport: GrpcTransport, gpt2_dir: Path) -> None:
    *progress, last = load(transport, gpt2_dir)
    reports = [event.progress for event in progress]
    assert len(reports) >= 5
    assert [r.phase for r in reports] == sorted(r.phase for r in reports)
    read = [report for report in reports if report.phase == pb.LOAD_PHASE_READ]
    done = [report.bytes_done for report in read]
    assert len(done) >= 5
    assert done == sorted(done)
    assert done[0] == 0
    assert {report.bytes_total for report in read} == {done[-1]} == {last.model.weights_bytes}
    assert reports[-1].phase == pb.LOAD_PHASE_SELF_TEST
    weights = load_file(gpt2_dir / "model.safetensors")
    assert last.model.weights_bytes == sum(array.nbytes for array in weights.values())
    assert last.model.parameter_count == sum(array.size for array in weights.values())
    unload(transport, "gpt2")


@pytest.mark.usefixtures("still_serves")
def test_the_description_is_that_of_the_files(transport: GrpcTransport, gpt2_dir: Path) -> None:
    model = load(transport, gpt2_dir, model_id="mine")[-1].model
    assert (model.model_id, model.model_path, model.architecture) == ("mine", str(gpt2_dir), "gpt2")
    assert (model.num_layers, model.d_model, model.num_heads, model.num_kv_heads, model.d_head) == (4, 128, 8, 8, 16)
    assert (model.vocab_size, model.context_length, model.has_chat_template) == (512, 1024, True)
    assert (model.bos_token_id, list(model.eos_token_ids)) == (0, [1])
    assert abs(model.loaded_at_ms - time.time() * 1000) < 60_000
    response: Any = transport.unary(RPCS["GetModel"], pb.GetModelRequest(model_id="mine"))
    assert response.model == model
    unload(transport, "mine")


@pytest.mark.usefixtures("still_serves")
def test_a_load_that_is_cancelled_leaves_nothing_behind(transport: GrpcTransport, gpt2_dir: Path) -> None:
    events = transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(gpt2_dir)))
    next(events)
    events.close()
    time.sleep(0.2)
    if model_ids(transport) == ["llama", "gpt2"]:  # it was too late to cancel
        unload(transport, "gpt2")
    load(transport, gpt2_dir)
    unload(transport, "gpt2")


@pytest.mark.usefixtures("still_serves")
def test_one_folder_under_two_names_is_two_models(transport: GrpcTransport, gpt2_dir: Path) -> None:
    load(transport, gpt2_dir, model_id="one")
    load(transport, gpt2_dir, model_id="two")
    requests = [capture_request(prompt(IDS), "resid_post", model_id=name) for name in ("one", "two")]
    one, two = (record(transport, request).checksums() for request in requests)
    assert one == two
    unload(transport, "one")
    assert record(transport, requests[1]).checksums() == one
    unload(transport, "two")


# ------------------------------------------------------------------------------------------------ ids


@pytest.mark.usefixtures("still_serves")
def test_a_model_that_is_loaded_is_not_loaded_again(transport: GrpcTransport, llama_dir: Path) -> None:
    first: Any = transport.unary(RPCS["GetModel"], pb.GetModelRequest(model_id="llama"))
    for spelling in (str(llama_dir), f"{llama_dir}/", f"{llama_dir.parent}/./{llama_dir.name}"):
        events = load(transport, spelling)
        assert len(events) == 1
        assert events[0].model == first.model


@pytest.mark.usefixtures("still_serves")
def test_an_id_that_another_model_has_is_taken(transport: GrpcTransport, gpt2_dir: Path) -> None:
    with pytest.raises(IdTakenError) as caught:
        load(transport, gpt2_dir, model_id="llama")
    assert caught.value.field == "model_id"


@pytest.mark.usefixtures("still_serves")
def test_an_adapter_makes_another_model(transport: GrpcTransport, llama_dir: Path, tmp_path: Path) -> None:
    """It is not the model without the adapter, and says so instead of handing that out."""
    with pytest.raises(IdTakenError):
        load(transport, llama_dir, adapter_path=str(tmp_path))


@pytest.mark.usefixtures("still_serves")
def test_of_two_models_that_load_under_one_id_one_is_refused(
    transport: GrpcTransport, gpt2_dir: Path, llama_dir: Path
) -> None:
    streams = [
        transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(path), model_id="both"))
        for path in (gpt2_dir, llama_dir)
    ]
    loaded: list[Any] = []
    refused = 0
    for stream in streams:
        try:
            loaded.append(list(stream)[-1])
        except IdTakenError:
            refused += 1
    assert (len(loaded), refused) == (1, 1)
    listed: Any = transport.unary(RPCS["ListModels"], pb.ListModelsRequest())
    assert loaded[0].model in listed.models
    unload(transport, "both")


# ------------------------------------------------------------------------------------------------ what goes wrong


def rewrite_config(**changes: Any) -> Callable[[Path], None]:
    """Changes entries of config.json; None removes one."""

    def mutate(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return mutate


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Replaces a file."""
    return lambda folder: void((folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()))


def remove(name: str) -> Callable[[Path], None]:
    """Removes a file."""
    return lambda folder: (folder / name).unlink()


def truncate(name: str, share: float) -> Callable[[Path], None]:
    """Keeps the beginning of a file."""

    def mutate(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return mutate


def rewrite_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes the tensors."""

    def mutate(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})

    return mutate


def void(_: Any) -> None:
    """Drops a value."""


DOWN = "model.layers.2.mlp.down_proj.weight"
WEIGHTS = "model.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], Any], type[MLXIntegrationError], str]] = {
    "no config": (remove("config.json"), ModelNotFoundError, "no config.json"),
    "config is not JSON": (write("config.json", "{'single': quotes}"), ModelCorruptError, "not JSON"),
    "config is not text": (write("config.json", bytes(range(256))), ModelCorruptError, "not JSON"),
    "config is a list": (write("config.json", "[1, 2]"), ModelCorruptError, "model_type"),
    "config without a type": (rewrite_config(model_type=None), ModelCorruptError, "model_type"),
    "unknown architecture": (rewrite_config(model_type="sparse_gpt9"), ModelUnsupportedError, "sparse_gpt9"),
    "a path for a type": (rewrite_config(model_type="../../etc"), ModelUnsupportedError, "not supported"),
    "no width": (rewrite_config(hidden_size=None), ModelCorruptError, "hidden_size"),
    "width is a word": (rewrite_config(hidden_size="wide"), ModelCorruptError, "do not fit"),
    "other width": (rewrite_config(hidden_size=64), ModelCorruptError, "do not fit"),
    "other depth": (rewrite_config(num_hidden_layers=5), ModelCorruptError, "do not fit"),
    "heads that do not divide": (rewrite_config(num_attention_heads=7), ModelCorruptError, ""),
    "no weights": (remove(WEIGHTS), ModelCorruptError, "safetensors"),
    "empty weights": (write(WEIGHTS, b""), ModelCorruptError, "damaged"),
    "garbage for weights": (write(WEIGHTS, b"garbage!" * 500), ModelCorruptError, "damaged"),
    "weights cut in the header": (truncate(WEIGHTS, 0.001), ModelCorruptError, "damaged"),
    "weights cut in the middle": (truncate(WEIGHTS, 0.5), ModelCorruptError, "damaged"),
    "weights cut near the end": (truncate(WEIGHTS, 0.999), ModelCorruptError, "damaged"),
    "a tensor is missing": (rewrite_weights(lambda w: w.pop(DOWN)), ModelCorruptError, DOWN),
    "a tensor too many": (rewrite_weights(lambda w: w.update(extra=w[DOWN])), ModelCorruptError, "extra"),
    "a tensor of another shape": (
        rewrite_weights(lambda w: w.update({DOWN: w[DOWN][:, :-1].copy()})),
        ModelCorruptError,
        "do not fit",
    ),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        ModelCorruptError,
        "tokenizer",
    ),
    "garbage for a tokenizer": (write("tokenizer.json", "{}"), ModelCorruptError, "tokenizer"),
}


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_are_wrong_are_named(transport: GrpcTransport, llama_dir: Path, tmp_path: Path, damage: str) -> None:
    mutate, error, message = DAMAGE[damage]
    folder = tmp_path / "damaged"
    shutil.copytree(llama_dir, folder)
    mutate(folder)
    with pytest.raises(error) as caught:
        load(transport, folder)
    assert type(caught.value) is error
    assert caught.value.field == "model_path"
    assert message in caught.value.message
    assert "Traceback" not in caught.value.message


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize(
    "path",
    [
        "/nowhere/at/all",
        "no such folder",
        "someone/no-such-model",
        "~nobody-of-that-name/model",
        "../" * 40,
        "x" * 5000,
        "nul\0byte",
        "-",
        "https://example.org/model",
        "ünï/cödé",
    ],
    ids=lambda path: path[:20],
)
def test_what_is_not_there_is_not_found_and_soon(transport: GrpcTransport, path: str) -> None:
    """Without network: the hub is a port that refuses. A name that might be the hub's fails as fast as a path."""
    started = time.monotonic()
    with pytest.raises(ModelNotFoundError) as caught:
        load(transport, path)
    assert caught.value.field == "model_path"
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("still_serves")
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(transport: GrpcTransport, llama_dir: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load(transport, llama_dir.parent / "lama")
    assert str(llama_dir) in caught.value.valid


@pytest.mark.usefixtures("still_serves")
def test_requests_that_name_nothing_are_refused(transport: GrpcTransport, gpt2_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load(transport, "")
    assert caught.value.field == "model_path"
    with pytest.raises(InvalidRequestError) as caught:
        unload(transport, "")
    assert caught.value.field == "model_id"
    with pytest.raises(ModelNotFoundError) as missing:
        unload(transport, "lama")
    assert (missing.value.field, missing.value.valid) == ("model_id", ("llama",))
    with pytest.raises(ModelCorruptError):
        load(transport, gpt2_dir, adapter_path=str(tmp_path / "nothing"))


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize("name", ["nothing", "a" * 5000, "a\0b", "/dev/null"])
def test_an_adapter_that_is_none_is_the_callers_mistake(transport: GrpcTransport, gpt2_dir: Path, name: str) -> None:
    with pytest.raises(ModelCorruptError) as caught:
        load(transport, gpt2_dir, adapter_path=name)
    assert caught.value.field == "adapter_path"


# ------------------------------------------------------------------------------------------------ unloading


@pytest.mark.usefixtures("still_serves")
def test_unloading_ends_what_runs_and_nothing_else(transport: GrpcTransport, gpt2_dir: Path) -> None:
    gpt2_bytes = load(transport, gpt2_dir)[-1].model.weights_bytes
    fields: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}
    record(transport, generate_request(prompt(IDS), model_id="llama", max_tokens=60, ignore_eos=True))
    held_bytes = active_bytes(transport)
    doomed = [
        Follower(transport, generate_request(prompt(IDS), "resid_post", model_id="gpt2", **fields)),
        Follower(transport, generate_request(prompt(IDS), model_id="gpt2", max_steps_ahead=1, **fields)),
    ]
    spared = Follower(transport, generate_request(prompt(IDS), model_id="llama", max_tokens=60, ignore_eos=True))
    for follower in (*doomed, spared):
        assert follower.next_token() is not None
    unload(transport, "gpt2")
    for follower in doomed:
        with pytest.raises(NeuroScopeIntegrationError, match="gpt2 was unloaded"):
            follower.wait()
        assert follower.recording.manifest is None
    assert len(spared.wait().tokens) == 60
    with pytest.raises(ModelNotFoundError) as caught:
        record(transport, generate_request(prompt(IDS), model_id="gpt2"))
    assert caught.value.field == "model_id"
    deadline = time.monotonic() + 10
    while active_bytes(transport) > held_bytes - gpt2_bytes:  # until the streams that broke off have let go of it
        assert time.monotonic() < deadline, (active_bytes(transport), held_bytes)
        time.sleep(0.01)


def active_bytes(transport: GrpcTransport) -> int:
    """Memory that MLX holds in the service."""
    workload: Any = transport.unary(RPCS["GetWorkload"], telemetry_pb2.GetWorkloadRequest())
    return workload.active_memory_bytes


def test_a_service_without_models_says_so_and_takes_one(transport: GrpcTransport, llama_dir: Path) -> None:
    unload(transport, "llama")
    with pytest.raises(ModelNotFoundError, match="no model is loaded"):
        record(transport, generate_request(prompt(IDS)))
    load(transport, llama_dir)
    assert record(transport, generate_request(prompt(IDS), max_tokens=2, ignore_eos=True)).tokens
