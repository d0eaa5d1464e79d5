"""Several models under a memory budget: who gives way, who does not, and what is said of it.

python -m pytest tests/integration/test_model_memory.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from neuroscope.errors import ModelNotFoundError, ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.local import LocalTransport
from tests.support.following import Follower
from tests.support.random_models import make_model
from tests.support.recording import StreamingTransport, capture_request, generate_request, prompt, record
from tests.support.services import inference_service

IDS = [0, 50, 60, 70]
ROOM = 2.5
"""Models of one size that the budget holds."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four models of about 3 MB, and one that is larger than the budget."""
    folder = tmp_path_factory.mktemp("models")
    small = {name: make_model("llama", folder / name, seed=seed) for seed, name in enumerate("abcd")}
    return small | {"large": make_model("llama", folder / "large", num_hidden_layers=12)}


@pytest.fixture(scope="module")
def budget_bytes(folders: dict[str, Path]) -> int:
    return int(ROOM * (folders["a"] / "model.safetensors").stat().st_size)


@pytest.fixture(scope="module")
def channel(budget_bytes: int) -> Iterator[GrpcTransport]:
    with inference_service(arguments=("--model-memory-bytes", str(budget_bytes))) as service:
        channel = GrpcTransport(service.target)
        yield channel
        channel.close()


@pytest.fixture
def transport(channel: GrpcTransport, folders: dict[str, Path]) -> GrpcTransport:
    """A service with `a` and `b`, in which no third has room."""
    for model_id in model_ids(channel):
        channel.unary(RPCS["UnloadModel"], pb.UnloadModelRequest(model_id=model_id))
    for name in "ab":
        load(channel, folders[name])
    return channel


def load(transport: StreamingTransport, folder: Path) -> list[Any]:
    return list(transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folder)), timeout_s=60))


def model_ids(transport: Any) -> list[str]:
    return [model.model_id for model in transport.unary(RPCS["ListModels"], pb.ListModelsRequest()).models]


def generate(transport: StreamingTransport, model_id: str = "", max_tokens: int = 3, **fields: Any) -> Any:
    request = generate_request(prompt(IDS), model_id=model_id, max_tokens=max_tokens, ignore_eos=True, **fields)
    return record(transport, request)


def endless(transport: StreamingTransport, model_id: str, **fields: Any) -> Follower:
    """A generation that has begun and goes on for as long as it gets credit."""
    fields = {"max_tokens": 300, "ignore_eos": True, "generation_id": model_id} | fields
    follower = Follower(transport, generate_request(prompt(IDS), model_id=model_id, **fields))
    assert follower.next_token() is not None
    return follower


def test_the_least_recently_used_gives_way(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    generate(transport, "b")
    generate(transport, "a")
    load(transport, folders["c"])
    assert model_ids(transport) == ["a", "c"]
    load(transport, folders["d"])  # `a` was used before `c` was loaded
    assert model_ids(transport) == ["c", "d"]


def test_what_was_evicted_says_so_and_comes_back(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    before = generate(transport, "a").token_ids()
    generate(transport, "b")
    load(transport, folders["c"])
    for request in (generate_request(prompt(IDS), model_id="a"), capture_request(prompt(IDS), "embed", model_id="a")):
        with pytest.raises(ModelNotFoundError, match="evicted to make room for 'c'") as caught:
            record(transport, request)
        assert caught.value.field == "model_id"
        assert str(folders["a"]) in caught.value.message
        assert caught.value.valid
    load(transport, folders["a"])
    assert model_ids(transport) == ["c", "a"]
    assert generate(transport, "a").token_ids() == before


def test_the_default_is_the_oldest_that_is_left(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    generate(transport, "b")
    load(transport, folders["c"])
    recording = generate(transport)
    assert recording.started is not None
    assert recording.started.model_id == "b"


def test_a_model_in_use_stays(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    """Though it was asked for first, and rests for want of credit."""
    alone = generate(transport, "a", 20).token_ids()
    running = endless(transport, "a", max_tokens=20, max_steps_ahead=1)
    generate(transport, "b")
    load(transport, folders["c"])
    assert model_ids(transport) == ["a", "c"]
    transport.unary(RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id="a", steps=100))
    assert running.wait().token_ids() == alone


def test_a_load_is_refused_while_all_are_in_use(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    running = [endless(transport, name, max_steps_ahead=1) for name in "ab"]
    with pytest.raises(ResourceExhaustedError, match="model_memory_bytes") as caught:
        load(transport, folders["c"])
    assert re.search(r"in use are a \([\d.]+ MB\), b \([\d.]+ MB\)", caught.value.message)
    assert caught.value.field == "model_path"
    assert model_ids(transport) == ["a", "b"]
    for name in "ab":
        transport.unary(RPCS["AdvanceGeneration"], pb.AdvanceGenerationRequest(generation_id=name, steps=1000))
    for follower in running:
        assert len(follower.wait().tokens) == 300
    load(transport, folders["c"])
    assert model_ids(transport) == ["b", "c"]


def test_a_model_larger_than_the_budget_evicts_none(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    events: list[Any] = []
    with pytest.raises(ResourceExhaustedError, match=r"large needs .* model_memory_bytes"):
        events += transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folders["large"])))
    assert not events
    assert model_ids(transport) == ["a", "b"]


def test_loads_at_one_time_share_the_budget(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    """Each keeps its room from the beginning, so together they take no more than one after the other."""
    streams = [transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folders[name]))) for name in "cd"]
    for stream in streams:
        assert [*stream][-1]
    assert sorted(model_ids(transport)) == ["c", "d"]


def test_a_load_that_is_given_up_gives_its_room_back(transport: GrpcTransport, folders: dict[str, Path]) -> None:
    stream = transport.stream(RPCS["LoadModel"], pb.LoadModelRequest(model_path=str(folders["c"])))
    next(stream)
    stream.close()
    load(transport, folders["d"])
    load(transport, folders["a"])
    assert model_ids(transport)[-2:] == ["d", "a"]


def test_memory_is_really_free(folders: dict[str, Path], budget_bytes: int) -> None:
    transport = LocalTransport(model=[str(folders["a"])], model_memory_bytes=budget_bytes)
    before = mx.get_active_memory()
    try:
        for name in "bcdbcd":
            load(transport, folders[name])
            generate(transport, name)
        assert mx.get_active_memory() - before <= budget_bytes
    finally:
        transport.close()
