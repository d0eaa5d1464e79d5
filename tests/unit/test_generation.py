"""neuroscope.calls.running_generation: iterating, ending, breaking, cancelling, credit and spans, for both kinds."""

from collections.abc import Iterator

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from neuroscope import AsyncClient, Client, zero
from neuroscope.errors import (
    ChecksumError,
    InvalidRequestError,
    MLXIntegrationError,
    StreamingError,
    UnknownIdError,
)
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.sites import Point
from tests.support.scripted_transport import AsyncScriptedTransport, ScriptedTransport
from tests.support.streams import Stream, outgoing


def script(steps: int = 3, *, rows: int = 1, manifest: bool = True) -> list:
    """The events of a generation of tokens a, b, c, ... that captures one point."""
    stream = Stream(Point("resid_post", 0), prompts=[[1, 2, 3]] * rows)
    events = [stream.started(), stream.plan()]
    for step in range(steps):
        positions = 1 if step else 3
        for row in range(rows):
            array = np.full((1, positions, 4), step, np.float32)
            first = step + 2 if step else 0
            events += stream.frames(step, outgoing(0, array, row=row, first_position=first))
            finish = pb.FINISH_REASON_LENGTH if step == steps - 1 else 0
            events.append(stream.token(step, chr(ord("a") + step), row=row, finish=finish))
    return [*events, stream.manifest()] if manifest else events


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport({"Generate": script()})


@pytest.fixture
def client(transport) -> Client:
    return Client(transport=transport)


@pytest.fixture
def async_client(transport) -> AsyncClient:
    return AsyncClient(transport=AsyncScriptedTransport(transport))


@pytest.fixture
def recording() -> Iterator[None]:
    telemetry.configure("neuroscope-test", record_roots=True)
    yield
    telemetry.shutdown()


def recorded(transport: ScriptedTransport) -> Span:
    """The one span of the trace in which the first call began."""
    data = TracesData.FromString(telemetry.recent_trace(telemetry.trace_id_of(transport.spans[0])))
    (span,) = [span for r in data.resource_spans for s in r.scope_spans for span in s.spans]
    return span


def attributes(span: Span) -> dict[str, int]:
    return {attribute.key: attribute.value.int_value for attribute in span.attributes}


def test_tokens_come_with_their_tensors_and_the_end_is_checked(client):
    generation = client.generate("x")
    tokens = list(generation)
    assert [token.text for token in tokens] == ["a", "b", "c"]
    assert [token.activations["resid_post.0"][0].array.shape for token in tokens] == [(1, 3, 4), (1, 1, 4), (1, 1, 4)]
    assert generation.text == "abc"
    assert generation.texts == ["abc"]
    assert generation.cache["resid_post", 0].shape == (1, 5, 4)
    assert generation.manifest.frame_count == 3
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (3, 3)
    assert generation.plan is not None
    assert list(generation) == []
    assert "ended, 3 tokens" in repr(generation)


async def test_the_same_on_an_event_loop(async_client):
    generation = async_client.generate("x")
    tokens = [token async for token in generation]
    assert [token.text for token in tokens] == ["a", "b", "c"]
    assert generation.text == "abc"
    assert generation.cache["resid_post", 0].shape == (1, 5, 4)
    assert generation.manifest.frame_count == 3
    assert [token async for token in generation] == []


def test_waiting_reads_to_the_end(client):
    assert client.generate("x").wait().text == "abc"


async def test_waiting_on_an_event_loop(async_client):
    assert (await async_client.generate("x").wait()).text == "abc"


def test_what_started_is_known_before_the_first_token(client, transport):
    generation = client.generate("x")
    assert generation.text == ""
    assert generation.started.stream_id == "s1"
    assert [token.text for token in generation] == ["a", "b", "c"]


async def test_what_started_on_an_event_loop(async_client):
    generation = async_client.generate("x")
    with pytest.raises(StreamingError, match="has not started"):
        generation.started  # noqa: B018
    assert (await generation.start()).stream_id == "s1"
    assert generation.started.seed == 7
    assert (await generation.wait()).text == "abc"


def test_the_manifest_comes_last(client):
    generation = client.generate("x")
    next(generation)
    with pytest.raises(StreamingError, match="has not ended"):
        generation.manifest  # noqa: B018


def test_a_stream_that_ends_early_is_an_error_and_stays_one(client, transport):
    transport.answers["Generate"] = script(manifest=False)
    generation = client.generate("x")
    with pytest.raises(StreamingError, match="without its manifest"):
        list(generation)
    assert list(generation) == []
    assert generation.text == "abc"
    with pytest.raises(StreamingError, match="broke off"):
        generation.manifest  # noqa: B018


async def test_a_stream_that_ends_early_on_an_event_loop(async_client, transport):
    transport.answers["Generate"] = script(manifest=False)
    with pytest.raises(StreamingError, match="without its manifest"):
        await async_client.generate("x").wait()


def test_a_changed_tensor_ends_the_generation(client, transport):
    events = script()
    events[2].parts = [memoryview(bytes(48))[1:], memoryview(b"\x01")]
    transport.answers["Generate"] = events
    with pytest.raises(ChecksumError):
        client.generate("x").wait()
    assert transport.closed_streams == ["Generate"]


def test_an_error_of_the_server_comes_out_of_the_iteration(client, transport):
    transport.answers["Generate"] = [*script()[:4], MLXIntegrationError("broken")]
    generation = client.generate("x")
    assert next(generation).text == "a"
    with pytest.raises(MLXIntegrationError, match="broken"):
        next(generation)


def test_leaving_the_block_cancels(client, transport):
    with client.generate("x") as generation:
        next(generation)
    assert transport.closed_streams == ["Generate"]
    assert list(generation) == []
    assert "cancelled" in repr(generation)
    with pytest.raises(StreamingError, match="was cancelled"):
        generation.manifest  # noqa: B018


async def test_leaving_the_block_on_an_event_loop(async_client, transport):
    async with async_client.generate("x") as generation:
        await anext(generation)
    assert transport.closed_streams == ["Generate"]
    assert [token async for token in generation] == []


def test_leaving_the_block_at_the_end_cancels_nothing(client, transport):
    with client.generate("x") as generation:
        generation.wait()
    generation.close()
    assert transport.closed_streams == []
    assert generation.manifest


def test_without_keeping_the_cache_is_empty(client):
    generation = client.generate("x", keep=False).wait()
    assert len(generation.cache) == 0
    assert generation.manifest.entries


class Credit:
    """Counts the credit that a generation gives."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.granted = 1
        transport.answers["AdvanceGeneration"] = self

    def __call__(self, request: pb.AdvanceGenerationRequest) -> pb.AdvanceGenerationResponse:
        assert request.generation_id == "s1"
        self.granted += request.steps
        return pb.AdvanceGenerationResponse(granted_steps=self.granted)


def test_asking_for_a_token_gives_the_credit_it_needs(client, transport):
    credit = Credit(transport)
    generation = client.generate("x", max_steps_ahead=1)
    granted = [(token.text, credit.granted) for token in generation]
    assert granted == [("a", 1), ("b", 2), ("c", 3)]


def test_credit_that_was_given_is_not_given_again(client, transport):
    credit = Credit(transport)
    generation = client.generate("x", max_steps_ahead=1)
    next(generation)
    assert generation.advance(2) == 3
    list(generation)
    assert credit.granted == 3


async def test_steering(client, async_client, transport):
    transport.answers["Steer"] = pb.SteerResponse(first_step=2)
    generation = client.generate("x")
    assert generation.steer([zero("mlp_out", 3)]) == 2
    steered = transport.calls[-1][1]
    assert steered.generation_id == generation.started.stream_id != ""
    assert steered.interventions == [zero("mlp_out", 3).message]
    assert generation.steer([]) == 2
    assert [token.text for token in generation] == ["a", "b", "c"]
    other = async_client.generate("x")
    assert await other.steer([zero("mlp_out", 3)]) == 2
    assert transport.calls[-1][1] == steered
    with pytest.raises(InvalidRequestError):
        generation.steer(zero("mlp_out", 3))


@pytest.mark.parametrize("options", [{"max_steps_ahead": 1, "auto_advance": False}, {}])
def test_credit_is_given_only_where_it_is_wanted(client, transport, options):
    credit = Credit(transport)
    client.generate("x", **options).wait()
    assert credit.granted == 1


def test_credit_of_several_rows_is_given_once_a_step(client, transport):
    transport.answers["Generate"] = script(rows=2)
    credit = Credit(transport)
    tokens = [(token.row, token.step, credit.granted) for token in client.generate(["x", "y"], max_steps_ahead=1)]
    assert tokens == [(0, 0, 1), (1, 0, 1), (0, 1, 2), (1, 1, 2), (0, 2, 3), (1, 2, 3)]


def test_an_engine_may_stay_ahead_of_what_is_read(client, transport):
    credit = Credit(transport)
    credit.granted = 2
    granted = [credit.granted for _ in client.generate("x", max_steps_ahead=2)]
    assert granted == [2, 3, 4]


async def test_a_generation_that_has_computed_its_last_step_needs_no_credit(client, async_client, transport):
    """It is no longer running while its last tokens are being read."""

    def ended(request: pb.AdvanceGenerationRequest) -> pb.AdvanceGenerationResponse:
        raise UnknownIdError("no generation is running", field="generation_id")

    transport.answers["AdvanceGeneration"] = ended
    assert [token.text for token in client.generate("x", max_steps_ahead=3)] == ["a", "b", "c"]
    assert [token.text async for token in async_client.generate("x", max_steps_ahead=3)] == ["a", "b", "c"]
    with pytest.raises(UnknownIdError):
        client.generate("x", max_steps_ahead=3).advance()


async def test_credit_on_an_event_loop(async_client, transport):
    credit = Credit(transport)
    granted = [credit.granted async for _ in async_client.generate("x", max_steps_ahead=1)]
    assert granted == [1, 2, 3]


@pytest.mark.usefixtures("recording")
def test_the_span_ends_with_the_stream_and_counts_it(client, transport):
    generation = client.generate("x")
    next(generation)
    assert transport.spans[0].is_recording()
    generation.wait()
    span = recorded(transport)
    assert span.name == "neuroscope.generate"
    assert attributes(span) == {telemetry.TOKENS: 3, telemetry.BYTES: 5 * 16}
    assert span.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.usefixtures("recording")
async def test_the_span_on_an_event_loop(async_client, transport):
    await async_client.generate("x").wait()
    assert attributes(recorded(transport)) == {telemetry.TOKENS: 3, telemetry.BYTES: 5 * 16}


@pytest.mark.usefixtures("recording")
def test_the_span_of_a_broken_stream_says_why(client, transport):
    transport.answers["Generate"] = [*script()[:4], MLXIntegrationError("broken")]
    with pytest.raises(MLXIntegrationError):
        client.generate("x").wait()
    span = recorded(transport)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "broken")
    assert [event.name for event in span.events] == ["exception"]
    assert attributes(span)[telemetry.TOKENS] == 1


@pytest.mark.usefixtures("recording")
def test_the_span_of_a_forgotten_generation_ends(client, transport):
    generation = client.generate("x")
    next(generation)
    del generation
    assert recorded(transport).status.message == "cancelled"


@pytest.mark.usefixtures("recording")
def test_the_span_of_a_cancelled_stream_is_no_success(client, transport):
    generation = client.generate("x")
    next(generation)
    generation.cancel()
    assert recorded(transport).status.message == "cancelled"
