"""neuroscope.base_client.client_method: one definition, two clients.

python -m pytest tests/unit/test_client_method.py
"""

from __future__ import annotations

import inspect

import pytest

from neuroscope.base_client.call import Call, CallFlow, Stream
from neuroscope.base_client.client import AsyncBaseClient, BaseClient
from neuroscope.base_client.client_method import client_method, client_stream
from neuroscope.errors import MLXIntegrationError, UnknownIdError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.wire.rpc import RPCS
from tests.support.scripted_transport import AsyncScriptedTransport, ScriptedTransport

PHASES = [pb.LOAD_PHASE_FETCH, pb.LOAD_PHASE_READ]


def listing() -> Call[list[str]]:
    return Call("names", RPCS["ListModels"], pb.ListModelsRequest(), lambda found: [m.model_id for m in found.models])


class Calls:
    heard: list[str]

    @client_method
    def names(self) -> Call[list[str]]:
        """Names of the models."""
        return listing()

    @client_method
    def last(self, *, suffix: str = "") -> CallFlow[str]:
        """The last of them."""
        try:
            return (yield from listing())[-1] + suffix
        except MLXIntegrationError as error:
            return f"none: {error}"
        finally:
            self.heard.append("ended")

    @client_stream
    def phases(self, path: str) -> Stream[int]:
        """Phases of a load."""
        request = pb.LoadModelRequest(model_path=path)
        return Stream("phases", RPCS["LoadModel"], request, lambda event: [event.progress.phase])

    @client_method
    def phase_count(self) -> CallFlow[int]:
        """How many there are."""
        seen: list[object] = []
        yield from Stream("count", RPCS["LoadModel"], pb.LoadModelRequest(), lambda event: [event]).each(seen.append)
        return len(seen)


class Client(Calls, BaseClient):
    pass


class AsyncClient(Calls, AsyncBaseClient):
    pass


@pytest.fixture
def transport() -> ScriptedTransport:
    models = [pb.Model(model_id="a"), pb.Model(model_id="b")]
    loads = [pb.LoadModelResponse(progress=pb.LoadProgress(phase=phase)) for phase in PHASES]
    return ScriptedTransport({"ListModels": pb.ListModelsResponse(models=models), "LoadModel": loads})


@pytest.fixture
def clients(transport):
    both = Client(transport=transport), AsyncClient(transport=AsyncScriptedTransport(transport))
    for client in both:
        client.heard = []
    return both


async def test_either_client_gives_the_value(clients):
    client, async_client = clients
    assert client.names() == await async_client.names() == ["a", "b"]
    assert client.last(suffix="!") == await async_client.last(suffix="!") == "b!"
    assert client.phase_count() == await async_client.phase_count() == 2
    assert list(client.phases("x")) == [phase async for phase in async_client.phases("x")] == PHASES


async def test_steps_learn_of_errors_and_end(clients, transport):
    transport.answers["ListModels"] = UnknownIdError("gone")
    for client in clients:
        answer = client.last()
        assert (await answer if inspect.isawaitable(answer) else answer) == "none: gone"
        assert client.heard == ["ended"]
    with pytest.raises(UnknownIdError):
        clients[0].names()
    with pytest.raises(UnknownIdError):
        await clients[1].names()


async def test_a_stream_that_is_left_is_closed(clients, transport):
    client, async_client = clients
    values = client.phases("x")
    assert next(values) == PHASES[0]
    values.close()
    async_values = async_client.phases("x")
    assert await anext(async_values) == PHASES[0]
    await async_values.aclose()
    assert transport.closed_streams == ["LoadModel", "LoadModel"]


def test_methods_look_as_if_they_were_written_out():
    assert Client.last.__doc__ == AsyncClient.last.__doc__ == "The last of them."
    assert str(inspect.signature(Client.last)) == "(self, *, suffix: 'str' = '') -> 'str'"
    assert inspect.signature(Client.names).return_annotation == "list[str]"
    assert inspect.signature(AsyncClient.phases).return_annotation == "AsyncGenerator[int, None]"
    assert inspect.iscoroutinefunction(AsyncClient.last)
    assert not inspect.iscoroutinefunction(Client.last)
    assert Client.phases.__qualname__ == "Calls.phases"
