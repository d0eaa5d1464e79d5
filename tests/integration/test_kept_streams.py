"""Streams that are kept on disk: resumed byte for byte, listed, removed, and what is left after a kill.

python -m pytest tests/integration/test_kept_streams.py
"""

import errno
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from neuroscope.calls.requests import captured_tensor
from neuroscope.client import Client
from neuroscope.errors import (
    IdTakenError,
    InvalidRequestError,
    ResourceExhaustedError,
    StreamingError,
    UnknownIdError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.captured_tensor_reader import CapturedTensorReader
from neuroscope.wire.codec import Frame, encode
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.local import LocalTransport
from neuroscope_inference.spool import records
from neuroscope_inference.spool.spool import Spool
from neuroscope_inference.spool.spooled_tensors import SpooledTensors
from tests.support.recording import Recording, capture_request, generate_request, prompt, record
from tests.support.services import Service, inference_service

TEXT = "Once upon a time Alice and Bob went to the park"
SITES = ("resid_post", "attention_pattern", "logits")
CHUNKS: dict[str, Any] = {"chunk_budget_bytes": 20_000}


@pytest.fixture(scope="module")
def spool_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spools") / "spool"


@pytest.fixture(scope="module")
def service(llama_dir: Path, spool_dir: Path) -> Iterator[Service]:
    with inference_service(llama_dir, arguments=("--spool-dir", str(spool_dir))) as running:
        yield running


@pytest.fixture(scope="module")
def transport(service: Service) -> Iterator[GrpcTransport]:
    opened = GrpcTransport(service.target)
    yield opened
    opened.close()


def raw(service: Service, method: str, request: Any) -> list[bytes]:
    """The messages of a stream as they are on the wire."""
    with grpc.insecure_channel(service.target) as channel:
        call: Any = channel.unary_stream(RPCS[method].path, RPCS[method].serialize, None)
        return list(call(request))


def capture(capture_id: str = "", *sites: Any, **fields: Any) -> pb.CaptureRequest:
    fields = {"resumable": True, **CHUNKS, **fields}
    return capture_request(fields.pop("content", prompt(TEXT)), *(sites or SITES), capture_id=capture_id, **fields)


def resume(capture_id: str, sequence: int = 0, restart_token: str = "") -> pb.ResumeCaptureRequest:
    return pb.ResumeCaptureRequest(capture_id=capture_id, sequence=sequence, restart_token=restart_token)


def resumed(transport: Any, *which: Any) -> list[Any]:
    return list(transport.stream(RPCS["ResumeCapture"], resume(*which)))


def of(transport: Any, capture_id: str) -> pb.CaptureRecord:
    return transport.unary(RPCS["GetCapture"], pb.GetCaptureRequest(capture_id=capture_id)).capture


def listed(transport: Any) -> dict[str, Any]:
    captures = transport.unary(RPCS["ListCaptures"], pb.ListCapturesRequest()).captures
    return {found.capture_id: found.state for found in captures}


def wait_until_broken(transport: Any, capture_id: str) -> None:
    deadline = time.monotonic() + 20
    while of(transport, capture_id).state != pb.CAPTURE_STATE_BROKEN:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def break_off(transport: Any, request: Any) -> None:
    """Leaves in the middle of a stream, after its first frame."""
    stream = transport.stream(RPCS["Capture" if isinstance(request, pb.CaptureRequest) else "Generate"], request)
    while not isinstance(next(stream), Frame):
        pass
    stream.close()
    name = request.capture_id if isinstance(request, pb.CaptureRequest) else request.generation_id
    wait_until_broken(transport, name)


# ------------------------------------------------------------------------------------------------ whole streams


def test_a_capture_is_sent_again_byte_for_byte_from_every_frame(service: Service) -> None:
    sent = raw(service, "Capture", capture("bytes"))
    assert raw(service, "ResumeCapture", resume("bytes")) == sent
    frames = [index for index, message in enumerate(sent) if message[0] >> 3 >= 14]
    assert len(frames) > 3
    for sequence, index in enumerate(frames):
        assert raw(service, "ResumeCapture", resume("bytes", sequence)) == sent[:2] + sent[index:]
    assert raw(service, "ResumeCapture", resume("bytes", len(frames))) == sent[:2] + sent[-1:]


def test_what_is_kept_is_what_is_sent_without_keeping(service: Service) -> None:
    kept, plain = (raw(service, "Capture", capture("plain", resumable=value)) for value in (True, False))
    assert kept[:-1] == plain[:-1]  # the manifest has durations


def test_a_generation_is_kept_with_its_tokens(service: Service) -> None:
    request = generate_request(
        prompt(TEXT), *SITES, generation_id="text", resumable=True, max_tokens=6, temperature=1.0, ignore_eos=True
    )
    sent = raw(service, "Generate", request)
    assert raw(service, "ResumeCapture", resume("text")) == sent
    events = [pb.GenerateResponse.FromString(message).WhichOneof("event") for message in sent]
    third = [index for index, event in enumerate(events) if event in ("step_frame", "tensor_frame")][2]
    after = max(index for index in range(third) if events[index] in ("step_frame", "tensor_frame")) + 1
    assert events[after] == "token"
    assert raw(service, "ResumeCapture", resume("text", 2)) == sent[:2] + sent[after:]
    assert raw(service, "Generate", request) == sent, "asked for again"


def test_large_tensors_come_in_their_slices_again(service: Service) -> None:
    ids = np.random.default_rng(3).integers(5, 500, 600).tolist()
    request = capture_request(prompt(ids), "resid_post", "logits", capture_id="large", resumable=True)
    sent = raw(service, "Capture", request)
    assert raw(service, "ResumeCapture", resume("large")) == sent
    assert raw(service, "ResumeCapture", resume("large", 4)) == sent[:2] + sent[6:]


def test_the_frames_of_a_resumed_stream_are_read_as_those_of_the_first(transport: GrpcTransport) -> None:
    first = record(transport, capture("read"))
    again = Recording()
    for event in resumed(transport, "read"):
        if not isinstance(event, Frame):
            event = pb.CaptureResponse.FromString(event.SerializeToString())
        again.add(event)
    assert again.checksums() == first.checksums()
    np.testing.assert_array_equal(again.array("logits"), first.array("logits"))


def test_a_repeated_request_gets_what_was_kept_and_another_one_is_refused(service: Service) -> None:
    sent = raw(service, "Capture", capture("twice"))
    assert raw(service, "Capture", capture("twice")) == sent
    transport = GrpcTransport(service.target)
    with pytest.raises(IdTakenError, match="another request"):
        record(transport, capture("twice", "ln1"))
    with pytest.raises(IdTakenError, match="another request"):
        record(transport, generate_request(prompt(TEXT), generation_id="twice", resumable=True, max_tokens=2))
    transport.close()


def test_stored_hooks_mean_what_they_meant(transport: GrpcTransport) -> None:
    def register(component: str) -> None:
        hook = capture("", component).hooks[0]
        hook.hook_id = "mine"
        transport.unary(RPCS["RegisterHooks"], pb.RegisterHooksRequest(hooks=[hook]))

    register("ln1")
    request = capture("stored")
    del request.hooks[:]
    request.hook_ids.append("mine")
    first = record(transport, request)
    transport.unary(RPCS["ClearHooks"], pb.ClearHooksRequest(hook_ids=["mine"]))
    register("ln2")
    assert {spec.site.component for spec in of(transport, "stored").plan.tensors} == {"ln1"}
    with pytest.raises(IdTakenError, match="another request"):
        record(transport, request)
    transport.unary(RPCS["ClearHooks"], pb.ClearHooksRequest(hook_ids=["mine"]))
    assert first.manifest is not None


def test_a_kept_stream_is_described_listed_and_removed(transport: GrpcTransport) -> None:
    began_ms = 1000 * time.time()
    recording = record(transport, capture("described"))
    found = of(transport, "described")
    assert found.state == pb.CAPTURE_STATE_COMMITTED
    assert (found.plan, found.manifest) == (recording.plan, recording.manifest)
    assert began_ms < found.expires_at_ms - 3600_000 <= 1000 * time.time()
    assert listed(transport)["described"] == pb.CAPTURE_STATE_COMMITTED
    transport.unary(RPCS["DeleteCapture"], pb.DeleteCaptureRequest(capture_id="described"))
    assert "described" not in listed(transport)
    for method, request in (
        ("GetCapture", pb.GetCaptureRequest(capture_id="described")),
        ("DeleteCapture", pb.DeleteCaptureRequest(capture_id="described")),
    ):
        with pytest.raises(UnknownIdError) as caught:
            transport.unary(RPCS[method], request)
        assert caught.value.field == "capture_id"


def test_an_id_is_made_where_none_is_given(transport: GrpcTransport) -> None:
    recording = record(transport, capture())
    assert recording.started is not None
    assert of(transport, recording.started.stream_id).state == pb.CAPTURE_STATE_COMMITTED


def test_files_are_private(transport: GrpcTransport, spool_dir: Path) -> None:
    record(transport, capture("private"))
    assert stat.S_IMODE(spool_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool_dir.iterdir()} == {0o600}


def test_a_wrong_request_leaves_nothing(transport: GrpcTransport) -> None:
    for wrong in (
        capture("wrong", "nothing"),
        capture("wrong", hook_ids=["unknown"]),
        capture("wrong", stop_at_layer=99),
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each for a reason of its own
            record(transport, wrong)
    with pytest.raises(InvalidRequestError):
        record(transport, capture("x" * 300))
    assert "wrong" not in listed(transport)


def test_a_frame_that_was_never_sent_cannot_be_resumed_from(transport: GrpcTransport) -> None:
    recording = record(transport, capture("beyond"))
    with pytest.raises(InvalidRequestError, match=f"has {recording.frames} frames") as caught:
        resumed(transport, "beyond", recording.frames + 1)
    assert caught.value.field == "sequence"
    with pytest.raises(UnknownIdError):
        resumed(transport, "beyond-that")


# ------------------------------------------------------------------------------------------------ broken streams


def test_a_capture_that_broke_off_is_aborted_and_its_token_runs_it_again(service: Service) -> None:
    transport = GrpcTransport(service.target)
    whole = record(transport, capture("whole", chunk_budget_bytes=1))
    break_off(transport, capture("half", chunk_budget_bytes=1))
    with pytest.raises(StreamingError, match="broke off before its manifest") as caught:
        resumed(transport, "half", 1)
    token = caught.value.restart_token
    assert token
    with pytest.raises(InvalidRequestError, match="frame 0"):
        resumed(transport, "half", 1, token)
    with pytest.raises(InvalidRequestError, match="not that of its attempt 1"):
        resumed(transport, "half", 0, "another")
    sent = raw(service, "ResumeCapture", resume("half", restart_token=token))
    assert of(transport, "half").manifest.entries == of(transport, "whole").manifest.entries
    assert whole.manifest is not None
    assert raw(service, "ResumeCapture", resume("half")) == sent
    with pytest.raises(InvalidRequestError, match="is committed"):
        resumed(transport, "half", 0, token)
    transport.close()


def test_a_generation_runs_again_with_the_seed_that_the_server_drew(transport: GrpcTransport) -> None:
    request = generate_request(
        prompt(TEXT), "logits", generation_id="drawn", resumable=True, max_tokens=200, temperature=1.0, ignore_eos=True
    )
    stream = transport.stream(RPCS["Generate"], request)
    seed, tokens = 0, []
    for event in stream:
        if isinstance(event, pb.GenerateResponse) and event.HasField("started"):
            seed = event.started.seed
        if isinstance(event, pb.GenerateResponse) and event.HasField("token"):
            tokens.append(event.token.token_id)
            if len(tokens) == 5:
                break
    stream.close()
    wait_until_broken(transport, "drawn")
    with pytest.raises(StreamingError) as caught:
        resumed(transport, "drawn")
    events = resumed(transport, "drawn", 0, caught.value.restart_token)
    assert events[0].started.seed == seed
    again = [event.token.token_id for event in events if not isinstance(event, Frame) and event.HasField("token")]
    assert again[:5] == tokens
    assert len(again) == 200


def test_a_generation_in_lockstep_runs_again_without_credit(service: Service, transport: GrpcTransport) -> None:
    request = generate_request(
        prompt(TEXT), "logits", generation_id="paced", resumable=True, max_tokens=9, ignore_eos=True, max_steps_ahead=1
    )
    free = generate_request(prompt(TEXT), "logits", max_tokens=9, ignore_eos=True)
    expected = record(transport, free).token_ids()
    stream = transport.stream(RPCS["Generate"], request)
    while not (isinstance(event := next(stream), pb.GenerateResponse) and event.HasField("token")):
        pass
    stream.close()
    wait_until_broken(transport, "paced")
    with Client(service.target) as client:
        with pytest.raises(StreamingError) as caught:
            client.resume_capture("paced")
        again = client.resume_capture("paced", restart_token=caught.value.restart_token)
    assert again.token_ids[0][-9:] == expected


def test_the_request_itself_runs_a_broken_capture_again(transport: GrpcTransport) -> None:
    request = capture("repeated", chunk_budget_bytes=1)
    break_off(transport, request)
    record(transport, request)
    assert of(transport, "repeated").state == pb.CAPTURE_STATE_COMMITTED


def test_a_capture_that_runs_is_neither_resumed_nor_removed_nor_run_twice(transport: GrpcTransport) -> None:
    request = generate_request(
        prompt(TEXT), "logits", generation_id="running", resumable=True, max_tokens=5, max_steps_ahead=1
    )
    stream = transport.stream(RPCS["Generate"], request)
    next(stream)
    with pytest.raises(StreamingError, match="still being written"):
        resumed(transport, "running")
    with pytest.raises(InvalidRequestError, match="still running"):
        transport.unary(RPCS["DeleteCapture"], pb.DeleteCaptureRequest(capture_id="running"))
    with pytest.raises(IdTakenError, match="running"):
        next(transport.stream(RPCS["Generate"], request))
    assert of(transport, "running").state == pb.CAPTURE_STATE_RUNNING
    stream.close()
    wait_until_broken(transport, "running")


def test_after_a_kill_what_was_whole_is_there_and_what_was_not_is_aborted(llama_dir: Path, tmp_path: Path) -> None:
    arguments = ("--spool-dir", str(tmp_path / "spool"))
    with inference_service(llama_dir, arguments=arguments) as service:
        sent = raw(service, "Capture", capture("whole"))
        transport = GrpcTransport(service.target)
        request = generate_request(
            prompt(TEXT), "logits", generation_id="half", resumable=True, max_tokens=500, ignore_eos=True
        )
        stream = transport.stream(RPCS["Generate"], request)
        for _ in range(40):
            next(stream)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        transport.close()
    assert sorted(path.suffix for path in (tmp_path / "spool").iterdir()) == ["", ".committed", ".running"]
    with inference_service(llama_dir, arguments=arguments) as service:
        transport = GrpcTransport(service.target)
        assert listed(transport) == {"whole": pb.CAPTURE_STATE_COMMITTED, "half": pb.CAPTURE_STATE_BROKEN}
        assert raw(service, "ResumeCapture", resume("whole")) == sent
        with pytest.raises(StreamingError) as caught:
            resumed(transport, "half")
        events = resumed(transport, "half", 0, caught.value.restart_token)
        assert events[-1].manifest.usage.completion_tokens == 500
        transport.close()


# ------------------------------------------------------------------------------------------------ limits


def test_retention_in_a_running_service(llama_dir: Path, tmp_path: Path) -> None:
    local = LocalTransport(
        model=[str(llama_dir)], spool_dir=str(tmp_path / "spool"), spool_max_bytes=120_000, spool_ttl_seconds=1.0
    )
    ids = prompt(list(range(5, 29)))  # 48 KiB of resid_post
    try:
        for name in "abc":
            record(local, capture(name, "resid_post", content=ids))
        assert list(listed(local)) == ["b", "c"], "the oldest made room"
        with pytest.raises(ResourceExhaustedError, match="spool_max_bytes"):
            record(local, capture("too-large", content=ids))
        record(local, capture_request(prompt(TEXT), *SITES))
        deadline = time.monotonic() + 20
        while list((tmp_path / "spool").glob("*.*")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert listed(local) == {}
    finally:
        local.close()


def test_on_a_full_disk_the_stream_fails_and_the_service_goes_on(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalTransport(model=[str(llama_dir)], spool_dir=str(tmp_path / "spool"))
    writev, calls = os.writev, 0

    def full_after_a_while(fd: int, parts: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return writev(fd, parts)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(records.os, "writev", full_after_a_while)
            with pytest.raises(ResourceExhaustedError, match="No space left on device"):
                record(local, capture("full", chunk_budget_bytes=1))
        wait_until_broken(local, "full")
        plain = record(local, capture_request(prompt(TEXT), *SITES, **CHUNKS))
        kept = record(local, capture("full"))
        assert kept.checksums() == plain.checksums()
    finally:
        local.close()


def test_in_process_a_kept_stream_is_the_same(
    llama_dir: Path, tmp_path: Path, service: Service, transport: GrpcTransport
) -> None:
    local = LocalTransport(model=[str(llama_dir)], spool_dir=str(tmp_path / "spool"))
    try:
        first, over_grpc = record(local, capture("same")), record(transport, capture("same"))
        assert first.checksums() == over_grpc.checksums()
        frames = [encode(event) for event in resumed(local, "same") if isinstance(event, Frame)]
        assert frames == [encode(event) for event in resumed(transport, "same") if isinstance(event, Frame)]
    finally:
        local.close()


# ------------------------------------------------------------------------------------------------ tensors of captures


def test_a_tensor_of_a_capture_is_joined_over_its_chunks(llama_dir: Path, tmp_path: Path) -> None:
    local = LocalTransport(model=[str(llama_dir)], spool_dir=str(tmp_path / "spool"))
    try:
        recording = record(local, capture("donor"))
        assert len(recording.of("resid_post", 2)) > 1
        expected = {name: recording.array(*name) for name in (("resid_post", 2), ("attention_pattern", 1))}
        half = capture("half", chunk_budget_bytes=1)
        break_off(local, half)
    finally:
        local.close()
    spool = Spool(tmp_path / "spool", 10**9, 3600)
    tensors = SpooledTensors(spool)
    plan = spool.get("donor").plan
    assert plan is not None
    indices = {(spec.site.component, spec.site.layer): spec.plan_index for spec in plan.tensors}
    for name, array in expected.items():
        found = tensors.tensor(tensor_pb2.CapturedTensor(capture_id="donor", plan_index=indices[name]), "by")
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable
    for wrong, error, field in (
        ({"capture_id": "nobody"}, UnknownIdError, "by.capture_id"),
        ({"capture_id": "half"}, StreamingError, "by.capture_id"),
        ({"plan_index": 99}, InvalidRequestError, "by.plan_index"),
        ({"step": 1}, InvalidRequestError, "by.step"),
        ({"row": 1}, InvalidRequestError, "by.row"),
    ):
        fields: dict[str, Any] = {"capture_id": "donor", **wrong}
        with pytest.raises(error) as caught:
            tensors.tensor(tensor_pb2.CapturedTensor(**fields), "by")
        assert caught.value.field == field
    spool.close()


@pytest.mark.parametrize("where", ["over gRPC", "in process"])
def test_one_tensor_is_read_without_its_stream(
    transport: GrpcTransport, llama_dir: Path, tmp_path: Path, where: str
) -> None:
    """Also bfloat16, a large one in slices, ranges counted from either end, and one of a stream that broke off."""
    local = LocalTransport(model=[str(llama_dir)], spool_dir=str(tmp_path / "spool")) if where == "in process" else None
    chosen: Any = local or transport
    try:
        narrow = Hook("mlp_out", 1, dtype="bfloat16")
        long = [prompt(list(range(20, 420))), prompt(list(range(40, 60)))]
        recording = record(chosen, capture("one", narrow, "attention_pattern.2", content=long, chunk_budget_bytes=0))
        client = Client(transport=chosen)
        for index, name in enumerate((("mlp_out", 1), ("attention_pattern", 2))):
            for row in range(2):
                found = client.captured_tensor("one", index, row=row)
                np.testing.assert_array_equal(found, recording.array(*name, row=row))
        assert client.captured_tensor("one", 0).dtype.name == "bfloat16"
        whole = client.captured_tensor("one", 1).tobytes()
        assert len(whole) > 1024 * 1024
        for offset, length, expected in (
            (0, 5, whole[:5]),
            (1000, 0, whole[1000:]),
            (-7, 0, whole[-7:]),
            (-7, 3, whole[-7:-4]),
            (-(10**12), 4, whole[:4]),
            (len(whole) - 2, 100, whole[-2:]),
            (len(whole), 0, b""),
            (2**62, 0, b""),
        ):
            state = CapturedTensorReader()
            call = captured_tensor("one", 1, step=0, row=0, offset_bytes=offset, length_bytes=length)
            parts = [state.feed(event) for event in chosen.stream(call.rpc, call.request)]
            assert b"".join(part for part in parts if part is not None) == expected
            assert state.finish().length_bytes == len(whole)
        break_off(chosen, capture("torn", chunk_budget_bytes=1))
        with pytest.raises(StreamingError):
            client.captured_tensor("torn", 0)
        for wrong, error in (({"plan_index": 9}, InvalidRequestError), ({"step": 4}, InvalidRequestError)):
            with pytest.raises(error):
                client.captured_tensor("one", **{"plan_index": 0, **wrong})
    finally:
        if local is not None:
            local.close()
