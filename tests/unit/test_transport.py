"""neuroscope.wire.transport over a real gRPC server: errors, deadlines, cancelling, retries, trace context."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest

from neuroscope import AsyncClient, Client
from neuroscope.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    StreamingError,
    UnknownIdError,
    UnknownSiteError,
)
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.wire import grpc_transport, transport
from neuroscope.wire.codec import Frame
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import AsyncGrpcTransport, GrpcTransport
from tests.support.scripted_server import serving, serving_in_thread
from tests.support.streams import Stream, outgoing


class Service:
    """The server's side; tests look at it from their own thread."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.attempts = 0
        self.cancelled = threading.Event()
        self.waiting = threading.Event()

    def _note(self, context: Any) -> None:
        self.attempts += 1
        self.metadata = {key: str(value) for key, value in context.invocation_metadata()}

    async def ListModels(self, request: Any, context: Any) -> Any:
        self._note(context)
        if self.attempts < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        return pb.ListModelsResponse(models=[pb.Model(model_id="tiny")])

    async def RegisterHooks(self, request: Any, context: Any) -> Any:
        self._note(context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    async def ClearHooks(self, request: Any, context: Any) -> Any:
        raise UnknownIdError("no hook has that id", field="hook_ids[0]", valid=["a", "b"])

    async def GetModel(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    async def PutTensor(self, requests: Any, context: Any) -> Any:
        parts = [part async for part in requests]
        assert parts[0].header.shape == [1, 3]
        frames = [part for part in parts if isinstance(part, Frame)]
        return pb.PutTensorResponse(tensor_id="t1", length_bytes=sum(frame.nbytes for frame in frames))

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> Any:
        """What the prompt says."""
        self._note(context)
        try:
            async with aclosing(self._events(request, context)) as events:
                async for event in events:
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _events(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[Any]:
        stream = Stream(Point("resid_post", 0))
        yield stream.started()
        yield stream.plan()
        match request.prompts[0].text:
            case "fail":
                raise UnknownSiteError("no such layer", field="hooks[0].site.layer", valid=["blocks.0"])
            case "abort":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            case "large":
                for frame in stream.frames(0, outgoing(0, np.zeros((1, 1, 4), np.float32))):
                    frame.parts = [memoryview(bytes(8 << 20))]
                    yield frame
            case "wait":
                for step in range(1000):
                    yield stream.token(step, "x")
                    if step == 2:
                        self.waiting.set()
                        await asyncio.sleep(30)
            case _:
                for frame in stream.frames(0, outgoing(0, np.ones((1, 3, 4), np.float32))):
                    yield frame
                yield stream.token(0, "a", finish=pb.FINISH_REASON_STOP)
                yield stream.manifest()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def target(service) -> Iterator[str]:
    with serving_in_thread(service) as address:
        yield address


@pytest.fixture
def client(target) -> Iterator[Client]:
    with Client(target) as client:
        yield client


def unused_target() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# Synchronous.


def test_a_stream_arrives(client):
    generation = client.generate("go").wait()
    assert generation.text == "a"
    np.testing.assert_array_equal(generation.cache["resid_post", 0], np.ones((1, 3, 4)))
    assert generation.manifest.frame_count == 1


def test_payloads_are_aligned_views(client):
    (token,) = client.generate("go")
    array = token.activations["resid_post.0"][0].array
    assert array.ctypes.data % 16 == 0
    assert not array.flags.writeable


def test_errors_of_unary_calls_keep_their_class(client):
    with pytest.raises(UnknownIdError, match="no hook has that id") as caught:
        client.clear_hooks(["x"])
    assert caught.value.field == "hook_ids[0]"
    assert caught.value.valid == ("a", "b")


def test_errors_of_streams_keep_their_class(client):
    with pytest.raises(UnknownSiteError, match="no such layer") as caught:
        client.generate("fail").wait()
    assert caught.value.field == "hooks[0].site.layer"
    assert caught.value.__cause__ is None


def test_calls_that_the_server_does_not_have_say_so(client):
    with pytest.raises(MLXIntegrationError) as caught:
        client.detokenize([1])
    assert caught.value.grpc_status is grpc.StatusCode.UNIMPLEMENTED


def test_what_changes_nothing_is_tried_again(client, service):
    assert [model.model_id for model in client.models()] == ["tiny"]
    assert service.attempts == 3


def test_what_changes_something_is_not(client, service):
    with pytest.raises(NeuroScopeIntegrationError):
        client.register_hooks(["resid_post"])
    assert service.attempts == 1


def test_every_retried_call_exists_and_is_unary():
    for name in grpc_transport._RETRIED:
        assert not RPCS[name].streams_responses


def test_an_unreachable_target_says_what_to_do():
    target = unused_target()
    with Client(target) as client:
        for call in (client.models, lambda: client.register_hooks(["resid_post"]), client.generate("x").wait):
            with pytest.raises(NeuroScopeIntegrationError) as caught:
                call()
            assert target in str(caught.value)
            assert "neuroscope up" in str(caught.value)


def test_a_service_that_goes_away_breaks_the_stream(client):
    with pytest.raises(StreamingError, match="disconnected after 2 messages"):
        client.generate("abort").wait()


def test_a_deadline_passes(target):
    with Client(target, timeout_s=0.2) as client:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            client.model()
        assert time.monotonic() - begin < 5


def test_the_deadline_of_a_stream_passes(target, service):
    transport = GrpcTransport(target)
    request = pb.GenerateRequest(prompts=[pb.Prompt(text="wait")])
    with pytest.raises(DeadlineExceededError):
        list(transport.stream(RPCS["Generate"], request, timeout_s=0.5))
    assert service.cancelled.wait(5)
    transport.close()


def test_messages_above_grpcs_default_limit_arrive(target):
    transport = GrpcTransport(target)
    events = transport.stream(RPCS["Generate"], pb.GenerateRequest(prompts=[pb.Prompt(text="large")]))
    assert max(event.nbytes for event in events if isinstance(event, Frame)) == 8 << 20
    transport.close()


def test_closing_reaches_the_server(client, service):
    with client.generate("wait") as generation:
        next(generation)
    assert service.cancelled.wait(5)


def test_cancelling_from_another_thread_ends_the_iteration(client, service):
    generation = client.generate("wait")

    def cancel() -> None:
        service.waiting.wait(5)
        time.sleep(0.05)
        generation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    begin = time.monotonic()
    assert len(list(generation)) == 3
    assert time.monotonic() - begin < 5
    thread.join()
    assert service.cancelled.wait(5)


def test_forgetting_a_generation_cancels_it(client, service):
    generation = client.generate("wait")
    next(generation)
    del generation
    assert service.cancelled.wait(5)


def test_an_interrupt_cancels_the_call(client, service, monkeypatch):
    generation = client.generate("wait")
    next(generation)

    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation._state, "feed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(generation)
    assert service.cancelled.wait(5)


def test_a_stream_is_a_generator(target, service):
    transport = GrpcTransport(target)
    events = transport.stream(RPCS["Generate"], pb.GenerateRequest(prompts=[pb.Prompt(text="wait")]))
    assert events.send(None)
    with pytest.raises(ZeroDivisionError):
        events.throw(ZeroDivisionError("x"))
    assert list(events) == []
    assert service.cancelled.wait(5)
    transport.close()


def test_closing_the_client_ends_its_streams(target, service):
    client = Client(target)
    generation = client.generate("wait")
    next(generation)
    client.close()
    assert service.cancelled.wait(5)
    with pytest.raises(StreamingError):
        list(generation)
    with pytest.raises(StreamingError, match="closed"):
        client.models()
    with pytest.raises(StreamingError, match="closed"):
        client.generate("x")


def test_the_trace_goes_on_at_the_server(client, service):
    telemetry.configure("neuroscope-test", record_roots=True)
    try:
        with telemetry.tracer().start_as_current_span("root") as root:
            client.generate("go").wait()
            trace_id = telemetry.trace_id_of(root)
        assert service.metadata["traceparent"].split("-")[1] == trace_id
        parent = service.metadata["traceparent"].split("-")[2]
        with telemetry.tracer().start_as_current_span("other"):
            client.models()
        assert trace_id not in service.metadata["traceparent"]
        assert parent.encode() in telemetry.recent_trace(trace_id).hex().encode()
    finally:
        telemetry.shutdown()


def test_without_a_trace_no_header_is_sent(client, service):
    client.generate("go").wait()
    assert "traceparent" not in service.metadata


def test_uploads_go_through(target):
    transport = GrpcTransport(target)
    header = pb.PutTensorRequest(header=pb.TensorHeader(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1, 3]))
    frame = Frame(tensor_pb2.TensorFrame(last=True), [memoryview(bytes(12))])
    response = transport.upload(RPCS["PutTensor"], [header, frame])
    assert isinstance(response, pb.PutTensorResponse)
    assert (response.tensor_id, response.length_bytes) == ("t1", 12)
    transport.close()


@pytest.mark.parametrize("target", ["http://127.0.0.1:8080", "https://x"])
def test_addresses_of_the_gateway_are_no_targets(target):
    with pytest.raises(InvalidRequestError, match="host:port"):
        Client(target)
    with pytest.raises(InvalidRequestError, match="host:port"):
        AsyncClient(target)


def test_the_engine_in_this_process_is_found_by_entry_point(monkeypatch):
    made: list[dict[str, Any]] = []

    class EntryPoint:
        def load(self) -> Any:
            return lambda **settings: made.append(settings) or "transport"

    def found(*, group: str, name: str) -> list[EntryPoint]:
        assert group == "neuroscope.transports"
        assert name in ("local", "local_async")
        return [EntryPoint()]

    monkeypatch.setattr(transport, "entry_points", found)
    assert Client.local(spool_bytes=3)._transport == "transport"
    assert Client("local")._transport == "transport"
    assert AsyncClient.local()._transport == "transport"
    assert made == [{"spool_bytes": 3}, {}, {}]


def test_without_the_engine_local_says_what_to_install(monkeypatch):
    monkeypatch.setattr(transport, "entry_points", lambda **_: [])
    with pytest.raises(NeuroScopeIntegrationError, match=r"neuroscope-mlx\[inference\]"):
        Client.local()


# On an event loop; server and client share it.


async def test_async_stream_arrives(service):
    async with serving(service) as target, AsyncClient(target) as client:
        tokens = [token async for token in client.generate("go")]
    assert [token.text for token in tokens] == ["a"]
    assert tokens[0].activations["resid_post.0"][0].array.shape == (1, 3, 4)


async def test_async_errors_keep_their_class(service):
    async with serving(service) as target, AsyncClient(target) as client:
        with pytest.raises(UnknownIdError) as caught:
            await client.clear_hooks(["x"])
        assert caught.value.valid == ("a", "b")
        with pytest.raises(UnknownSiteError) as site:
            await client.generate("fail").wait()
        assert site.value.field == "hooks[0].site.layer"
        with pytest.raises(StreamingError, match="disconnected after 2 messages"):
            await client.generate("abort").wait()


async def test_async_retries_and_deadlines(service):
    async with serving(service) as target, AsyncClient(target, timeout_s=3) as client:
        assert len(await client.models()) == 1
        assert service.attempts == 3
    async with serving(service) as target, AsyncClient(target, timeout_s=0.2) as client:
        with pytest.raises(DeadlineExceededError):
            await client.model()


async def test_async_unreachable_target():
    target = unused_target()
    async with AsyncClient(target) as client:
        with pytest.raises(NeuroScopeIntegrationError, match="neuroscope up"):
            await client.register_hooks(["resid_post"])
        with pytest.raises(NeuroScopeIntegrationError, match=target):
            await client.generate("x").wait()


async def test_async_closing_reaches_the_server(service):
    async with serving(service) as target, AsyncClient(target) as client:
        async with client.generate("wait") as generation:
            await anext(generation)
        assert await asyncio.to_thread(service.cancelled.wait, 5)


async def test_async_cancelling_from_another_task_ends_the_iteration(service):
    async with serving(service) as target, AsyncClient(target) as client:
        generation = client.generate("wait")

        async def cancel() -> None:
            await asyncio.to_thread(service.waiting.wait, 5)
            await asyncio.sleep(0.05)
            await generation.cancel()

        task = asyncio.create_task(cancel())
        assert len([token async for token in generation]) == 3
        await task
        assert await asyncio.to_thread(service.cancelled.wait, 5)


async def test_async_cancelling_the_reading_task_reaches_the_server(service):
    async with serving(service) as target, AsyncClient(target) as client:
        task = asyncio.create_task(client.generate("wait").wait())
        await asyncio.to_thread(service.waiting.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(service.cancelled.wait, 5)


async def test_async_stream_is_a_generator(service):
    async with serving(service) as target:
        transport = AsyncGrpcTransport(target)
        events = transport.stream(RPCS["Generate"], pb.GenerateRequest(prompts=[pb.Prompt(text="wait")]))
        assert await events.asend(None)
        with pytest.raises(ZeroDivisionError):
            await events.athrow(ZeroDivisionError("x"))
        assert [event async for event in events] == []
        await transport.close()


async def test_async_uploads_and_trace_context(service):
    telemetry.configure("neuroscope-test", record_roots=True)
    try:
        async with serving(service) as target:
            transport = AsyncGrpcTransport(target)
            header = pb.PutTensorRequest(header=pb.TensorHeader(shape=[1, 3]))
            response = await transport.upload(RPCS["PutTensor"], [header])
            assert isinstance(response, pb.PutTensorResponse)
            await transport.close()
            async with AsyncClient(target) as client:
                await client.generate("go").wait()
        assert service.metadata["traceparent"].startswith("00-")
    finally:
        telemetry.shutdown()


async def test_async_close_before_any_call():
    await AsyncClient("127.0.0.1:1").close()
