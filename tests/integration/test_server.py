"""The inference service as a process: health, reflection, settings, ends, deadlines, and what it tells of its work.

python -m pytest tests/integration/test_server.py
"""

import re
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from neuroscope.cli.processes.services import free_port
from neuroscope.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    NeuroScopeIntegrationError,
    StreamingError,
    UnknownIdError,
)
from neuroscope.tracing import span_tree, telemetry
from neuroscope.tracing.span_tree import SpanNode
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport
from tests.support import tracing
from tests.support.fake_hub import REPOSITORY, Hub, serving_hub
from tests.support.following import Follower
from tests.support.patience import eventually
from tests.support.recording import capture_request, generate_request, prompt, record
from tests.support.services import Service, inference_service, spawn

IDS = [0, 50, 60, 70]
SOON_S = 4.0
"""What is done at once is done by then, on a machine that has much else to do; far below the drain time of 10 s."""
SERVICES = sorted({rpc.service for rpc in RPCS.values()})
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def starting(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Generator[Service]:
    """A service on a port of ours, which listens but need not be ready; killed at the end if it still runs."""
    port = free_port()
    started = spawn(
        "neuroscope_inference", "--port", str(port), *arguments, log_file=folder / "log", environment=environment
    )
    try:
        eventually(lambda: started.process.poll() is not None or is_reachable("127.0.0.1", port))
        yield Service(f"127.0.0.1:{port}", started.process, started.log_file)
    finally:
        started.process.kill()
        started.process.wait()


def is_reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def transport_to(service: Service) -> Generator[GrpcTransport]:
    transport = GrpcTransport(service.target)
    try:
        yield transport
    finally:
        transport.close()


def free_generation(**fields: Any) -> pb.GenerateRequest:
    defaults: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}
    return generate_request(prompt(IDS), **(defaults | fields))


def seconds_to_end(service: Service, number: signal.Signals = signal.SIGTERM) -> float:
    """Tells it to stop; how long it takes until it has ended well."""
    began = time.monotonic()
    service.process.send_signal(number)
    assert service.process.wait(60) == 0, service.log
    assert "Traceback" not in service.log
    return time.monotonic() - began


# ------------------------------------------------------------------------------------------------ health


class Watcher:
    """The health of a service as it changes."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self.seen: list[int] = []
        stub: Any = health_pb2_grpc.HealthStub(channel)
        self._stream: Any = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        self._thread = threading.Thread(target=self._read, name="watcher", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for response in self._stream:
                self.seen.append(response.status)
        except grpc.RpcError:
            pass


def health_of(channel: grpc.Channel, name: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10, wait_for_ready=True).status


@pytest.fixture
def hub(llama_dir: Path) -> Iterator[Hub]:
    with serving_hub(llama_dir) as hub:
        yield hub


def test_it_is_healthy_from_its_models_to_its_end(hub: Hub, tmp_path: Path) -> None:
    """The model comes from a hub that first lets it wait."""
    with (
        starting(tmp_path, "--model", REPOSITORY, environment=hub.environment(tmp_path)) as service,
        grpc.insecure_channel(service.target) as channel,
        transport_to(service) as transport,
    ):
        assert hub.asked.wait(20)
        assert {health_of(channel, name) for name in ("", *SERVICES)} == {NOT_SERVING}
        watchers = [Watcher(channel, name) for name in ("", *SERVICES)]
        eventually(lambda: all(watcher.seen == [NOT_SERVING] for watcher in watchers))
        with pytest.raises(ModelNotFoundError, match="no model is loaded"):
            record(transport, free_generation())
        assert "ready on" not in service.log
        hub.is_open.set()
        eventually(lambda: all(watcher.seen == [NOT_SERVING, SERVING] for watcher in watchers))
        assert {health_of(channel, name) for name in ("", *SERVICES)} == {SERVING}
        assert f"neuroscope-inference ready on {service.target}\n" in service.log
        recording = record(transport, free_generation(max_tokens=2))
        assert recording.started is not None
        assert recording.started.model_id == "model"
        assert seconds_to_end(service) < SOON_S, "whoever watches health holds up the end"
        eventually(lambda: all(watcher.seen == [NOT_SERVING, SERVING, NOT_SERVING] for watcher in watchers))


def test_the_health_of_what_there_is_not(inference: Service) -> None:
    with grpc.insecure_channel(inference.target) as channel, pytest.raises(grpc.RpcError) as caught:
        health_of(channel, "neuroscope.v1.TelepathyService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# ------------------------------------------------------------------------------------------------ reflection


def test_reflection_is_enough_to_make_calls(inference: Service) -> None:
    """A client without stubs finds every service, method and message, and calls one."""
    with grpc.insecure_channel(inference.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            *SERVICES,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = DescriptorPool(database)
        for rpc in RPCS.values():
            method = pool.FindServiceByName(rpc.service).methods_by_name[rpc.method]
            assert method.input_type.full_name == rpc.request.DESCRIPTOR.full_name
            assert method.output_type.full_name == rpc.response.DESCRIPTOR.full_name
            assert (method.client_streaming, method.server_streaming) == (rpc.streams_requests, rpc.streams_responses)
            for found, known in ((method.input_type, rpc.request), (method.output_type, rpc.response)):
                assert found.fields_by_name.keys() == known.DESCRIPTOR.fields_by_name.keys()
        method = pool.FindServiceByName("neuroscope.v1.ModelService").methods_by_name["GetModel"]
        call: Any = channel.unary_unary(
            "/neuroscope.v1.ModelService/GetModel",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        answer = call(GetMessageClass(method.input_type)(model_id="gpt2"))
        assert answer.model.architecture == "gpt2"


# ------------------------------------------------------------------------------------------------ ends


def test_ctrl_c_ends_it_as_well() -> None:
    with inference_service() as service:
        assert seconds_to_end(service, signal.SIGINT) < SOON_S


def test_what_runs_ends_well_and_nothing_new_begins(llama_dir: Path) -> None:
    with (
        inference_service(llama_dir) as service,
        transport_to(service) as transport,
        transport_to(service) as late,
        grpc.insecure_channel(service.target) as channel,
    ):
        watcher = Watcher(channel, "")
        running = Follower(transport, generate_request(prompt(IDS), "resid_post", max_tokens=400, ignore_eos=True))
        assert running.next_token() is not None
        service.terminate()
        eventually(lambda: watcher.seen == [SERVING, NOT_SERVING])
        for client in (late, transport):
            with pytest.raises(NeuroScopeIntegrationError, match="no inference service answers"):
                record(client, free_generation())
        assert len(running.recording.tokens) < 400, "the generation was too short to be caught running"
        recording = running.wait()
        assert len(recording.tokens) == 400
        assert recording.manifest is not None
        assert service.process.wait(SOON_S) == 0
        assert "Traceback" not in service.log


def test_what_does_not_end_is_cut_off_after_the_drain_time(llama_dir: Path) -> None:
    """A generation with much to do, one without credit, and a stream that nobody reads: the engine fills what buffers
    there are, then rests.
    """
    with (
        inference_service(llama_dir, arguments=("--drain-seconds", "0.5")) as service,
        transport_to(service) as transport,
    ):
        large = generate_request(prompt([5] * 200), "logits", "attention_pattern", max_tokens=3000, ignore_eos=True)
        unread = transport.stream(RPCS["Generate"], large)
        next(unread)
        followers = [Follower(transport, free_generation(max_steps_ahead=ahead)) for ahead in (0, 1)]
        for follower in followers:
            assert follower.next_token() is not None
        assert 0.5 <= seconds_to_end(service) < 0.5 + SOON_S
        for follower in followers:
            with pytest.raises(StreamingError, match="disconnected"):
                follower.wait()
        with pytest.raises(StreamingError, match="disconnected"):
            list(unread)


def test_a_service_that_waits_for_a_hub_ends_at_once(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path)
    with starting(tmp_path, "--model", REPOSITORY, environment=environment) as service:
        assert hub.asked.wait(20)
        assert seconds_to_end(service) < SOON_S
        assert "ready on" not in service.log


def test_a_service_that_fetches_a_model_ends_at_once(hub: Hub, tmp_path: Path) -> None:
    """In the middle of the weights, which would take minutes."""
    hub.pause_s = 1.0
    hub.is_open.set()
    with starting(tmp_path, "--model", REPOSITORY, environment=hub.environment(tmp_path)) as service:
        assert hub.sending.wait(20)
        time.sleep(0.2)
        assert seconds_to_end(service) < SOON_S
        assert "ready on" not in service.log


def test_a_service_that_reads_a_model_ends_at_once(llama_dir: Path, tmp_path: Path) -> None:
    """As soon as it can be reached, in whatever it is doing then."""
    with starting(tmp_path, "--model", str(llama_dir)) as service:
        assert seconds_to_end(service) < SOON_S


# ------------------------------------------------------------------------------------------------ settings


def refused_start(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a service that does not start."""
    with tempfile.TemporaryDirectory(prefix="neuroscope-test-") as folder:
        started = spawn("neuroscope_inference", *arguments, log_file=Path(folder) / "log", environment=environment)
        try:
            return started.process.wait(60), started.log
        finally:
            started.process.kill()


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (
            ["--port", "70000", "--drain-seconds", "inf", "--max-prompts", "0"],
            {},
            {"port": "less than or equal to 65535", "drain_seconds": "a finite number", "max_prompts": "greater than"},
        ),
        (
            [],
            {"PORT": "fifty", "CHUNK_BUDGET_BYTES": "64MB", "LOG_LEVEL": "LOUD"},
            {"port": "a valid integer", "chunk_budget_bytes": "a valid integer", "log_level": "'DEBUG', 'INFO'"},
        ),
    ],
)
def test_wrong_settings_are_told_by_name(arguments: list[str], variables: dict[str, str], told: dict[str, str]) -> None:
    environment = {f"NEUROSCOPE_INFERENCE_{name}": value for name, value in variables.items()}
    exit_status, log = refused_start(*arguments, **environment)
    assert exit_status == 2
    lines = dict(line.removeprefix("neuroscope-inference: ").split(": ", 1) for line in log.splitlines())
    assert lines.keys() == told.keys()
    for name, words in told.items():
        assert words in lines[name]


def test_a_flag_that_there_is_not_is_told_with_those_that_there_are() -> None:
    exit_status, log = refused_start("--prot", "1")
    assert exit_status == 2
    assert "unrecognized arguments: --prot" in log
    assert "[--port int]" in log


def test_settings_come_from_flags_then_from_the_environment(llama_dir: Path, gpt2_dir: Path) -> None:
    """The flag's port is free, the variable's is not."""
    environment = {
        "NEUROSCOPE_INFERENCE_MODEL": f"{gpt2_dir}, {llama_dir}",
        "NEUROSCOPE_INFERENCE_PORT": "1",
        "NEUROSCOPE_INFERENCE_MAX_PROMPTS": "1",
    }
    with inference_service(environment=environment) as service, transport_to(service) as transport:
        models: Any = transport.unary(RPCS["ListModels"], pb.ListModelsRequest())
        assert [model.model_id for model in models.models] == ["gpt2", "llama"]
        with pytest.raises(InvalidRequestError, match="at most 1 prompts"):
            record(transport, generate_request([prompt(IDS)] * 2))


def test_a_model_that_is_not_there_keeps_it_from_starting(llama_dir: Path) -> None:
    exit_status, log = refused_start("--port", "0", "--model", str(llama_dir.parent / "lama"))
    assert exit_status == 1
    assert re.search(rf"^neuroscope-inference: .*models beside it: .*{llama_dir}", log, re.MULTILINE)
    assert "Traceback" not in log


def test_a_taken_port_is_told(inference: Service, grpc_transport: GrpcTransport) -> None:
    exit_status, log = refused_start("--port", str(inference.port))
    assert exit_status == 1
    assert f"neuroscope-inference: cannot listen on 127.0.0.1:{inference.port}: the port is in use" in log
    assert "Traceback" not in log
    assert record(grpc_transport, free_generation(max_tokens=1)).tokens


@pytest.mark.parametrize("host", ["192.0.2.1", "no host"])
def test_an_address_of_another_machine_is_told(host: str) -> None:
    exit_status, log = refused_start("--host", host, "--port", "0")
    assert exit_status == 1
    assert f"neuroscope-inference: cannot listen on {host}:0: " in log
    assert "Traceback" not in log


def test_nobody_else_reaches_it_by_default(inference: Service) -> None:
    assert inference.target.startswith("127.0.0.1:")
    assert is_reachable("127.0.0.1", inference.port)
    others = {"127.0.0.2", "::1", socket.gethostname()}
    assert not any(is_reachable(host, inference.port) for host in others - own_loopback_names())


def own_loopback_names() -> set[str]:
    """This machine's name, where it stands for 127.0.0.1."""
    name = socket.gethostname()
    try:
        return {name} if socket.gethostbyname(name) == "127.0.0.1" else set()
    except OSError:
        return {name}


def test_an_ipv6_address_comes_in_brackets() -> None:
    try:
        free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with inference_service(arguments=("--host", "::1")) as service, transport_to(service) as transport:
        assert re.fullmatch(r"\[::1\]:[0-9]+", service.target)
        answer: Any = transport.unary(RPCS["ListModels"], pb.ListModelsRequest(), timeout_s=10)
        assert not answer.models


# ------------------------------------------------------------------------------------------------ traces


def tree(transport: GrpcTransport, trace_id: str, name: str) -> SpanNode:
    """The spans of a call, once it has ended."""
    tracing.ended_span(transport, trace_id, name)
    answer: Any = transport.unary(RPCS["GetTrace"], telemetry_pb2.GetTraceRequest(trace_id=trace_id))
    (root,) = span_tree.build_tree(telemetry.merge([answer.traces_data]))
    return root


def numbers(root: SpanNode, name: str, attribute: str) -> list[int]:
    """An attribute of the spans of that name, which is an integer in each."""
    values = [span.attributes[attribute] for span in root.children if span.name == name]
    assert all(type(value) is int for value in values), values
    return [value for value in values if isinstance(value, int)]


def test_a_generation_is_one_tree_of_spans(grpc_transport: GrpcTransport) -> None:
    """A prompt of 10 tokens in chunks of 4, then 5 further tokens that are read."""
    hooks = ["resid_post", "attention_pattern.1"]
    chunk_bytes = 4 * 4 * (4 * 128 + 8 * 10)
    request = generate_request(prompt([5] * 10), *hooks, max_tokens=6, ignore_eos=True, chunk_budget_bytes=chunk_bytes)
    with tracing.traced() as (trace_id, span_id):
        recording = record(grpc_transport, request)
    root = tree(grpc_transport, trace_id, "Generate")
    assert (root.name, root.service, root.trace_id, root.parent_id) == (
        "Generate",
        "neuroscope-inference",
        trace_id,
        span_id,
    )
    assert not any(span.children for span in root.children)
    assert not any(span.is_error for span in root.walk())
    assert Counter(span.name for span in root.children) == {
        "prefill": 3,
        "sample": 1,
        "decode": 5,
        "capture": 3 + 5,
        "serialise": 3 + 5,
    }
    assert all(root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in root.children)
    assert numbers(root, "prefill", telemetry.TOKENS) == [4, 4, 2]
    assert numbers(root, "prefill", telemetry.STEP) == [0, 0, 0]
    assert numbers(root, "decode", telemetry.TOKENS) == [1] * 5
    assert numbers(root, "decode", telemetry.STEP) == [1, 2, 3, 4, 5]
    assert numbers(root, "serialise", telemetry.STEP) == [0, 0, 0, 1, 2, 3, 4, 5]
    of_steps: Counter[int] = Counter()
    for piece in recording.pieces:
        of_steps[piece.step] += piece.array.nbytes
    assert sum(numbers(root, "prefill", telemetry.BYTES)) == of_steps[0]
    assert numbers(root, "decode", telemetry.BYTES) == [of_steps[step] for step in range(1, 6)]
    for name in ("capture", "serialise"):
        assert sum(numbers(root, name, telemetry.BYTES)) == of_steps.total()


def test_a_capture_is_one_tree_of_spans(grpc_transport: GrpcTransport) -> None:
    with tracing.traced() as (trace_id, _):
        recording = record(grpc_transport, capture_request([prompt(IDS), prompt(IDS * 2)], "logits"))
    root = tree(grpc_transport, trace_id, "Capture")
    assert Counter(span.name for span in root.children) == {"prefill": 2, "capture": 2, "serialise": 2}
    assert numbers(root, "prefill", telemetry.TOKENS) == [4, 8]
    expected = [piece.array.nbytes for piece in recording.pieces]
    for name in ("prefill", "capture", "serialise"):
        assert numbers(root, name, telemetry.BYTES) == expected


def test_a_call_that_fails_says_so_in_its_span(grpc_transport: GrpcTransport) -> None:
    with tracing.traced() as (trace_id, _), pytest.raises(InvalidRequestError):
        record(grpc_transport, free_generation(top_p=2.0))
    root = tree(grpc_transport, trace_id, "Generate")
    assert root.is_error
    assert "sampling.top_p" in root.status_message
    assert not root.children


def test_two_clients_get_a_trace_each(inference: Service) -> None:
    """At the same time, on one engine."""
    with transport_to(inference) as one, transport_to(inference) as other:
        with tracing.traced() as (trace_of_one, _):
            following_one = Follower(one, free_generation(max_tokens=20))
        with tracing.traced() as (trace_of_other, _):
            following_other = Follower(other, generate_request(prompt(IDS), "key.1", max_tokens=30, ignore_eos=True))
        assert len(following_one.wait().tokens) == 20
        assert len(following_other.wait().tokens) == 30
        for client, trace_id, count in ((one, trace_of_one, 20), (other, trace_of_other, 30)):
            root = tree(client, trace_id, "Generate")
            assert numbers(root, "decode", telemetry.STEP) == list(range(1, count))
            assert bool(sum(numbers(root, "decode", telemetry.BYTES))) == (count == 30)


def test_what_its_caller_does_not_sample_is_not_recorded(grpc_transport: GrpcTransport) -> None:
    context = SpanContext(2**127 + 1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    with trace.use_span(NonRecordingSpan(context)):
        record(grpc_transport, free_generation(max_tokens=1))
    request = telemetry_pb2.GetTraceRequest(trace_id=trace.format_trace_id(context.trace_id))
    with pytest.raises(UnknownIdError) as caught:
        grpc_transport.unary(RPCS["GetTrace"], request)
    assert caught.value.field == "trace_id"


# ------------------------------------------------------------------------------------------------ deadlines


def test_a_call_whose_deadline_passes_is_given_up(grpc_transport: GrpcTransport) -> None:
    """A text that takes longer to tokenise than its caller waits."""
    request = pb.TokenizeRequest(prompt=prompt("When Alice and Bob went to the park. " * 20_000), model_id="gpt2")
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        grpc_transport.unary(RPCS["Tokenize"], request, timeout_s=0.1)
    assert time.monotonic() - began < SOON_S
    answer: Any = grpc_transport.unary(RPCS["Tokenize"], pb.TokenizeRequest(prompt=prompt(IDS), model_id="gpt2"))
    assert list(answer.token_ids) == IDS


def test_a_generation_whose_deadline_passes_is_ended(grpc_transport: GrpcTransport) -> None:
    with tracing.traced() as (trace_id, _):
        events = grpc_transport.stream(RPCS["Generate"], free_generation(), timeout_s=0.5)
        with pytest.raises(DeadlineExceededError):
            for _ in events:
                pass
    root = tree(grpc_transport, trace_id, "Generate")
    assert "cancelled" in root.status_message
    count = len(numbers(root, "decode", telemetry.STEP))
    time.sleep(0.3)
    assert len(numbers(tree(grpc_transport, trace_id, "Generate"), "decode", telemetry.STEP)) <= count + 1 < 4000
