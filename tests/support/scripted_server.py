"""A real grpc.aio server whose calls are functions of a test.

class Service:
    async def ListModels(self, request, context): return pb.ListModelsResponse()
    async def Generate(self, request, context): yield ...

async with serving(Service()) as target: ...         on the test's own loop
with serving_in_thread(Service()) as target: ...     for synchronous clients
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from neuroscope.errors import MLXIntegrationError
from neuroscope.wire import status
from neuroscope.wire.rpc import RPCS, Rpc


@asynccontextmanager
async def serving(service: Any) -> AsyncGenerator[str]:
    """Serves the methods of an object under the calls of the same names; gives the target."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for rpc in RPCS.values():
        if hasattr(service, rpc.method):
            handler = _handler(rpc, getattr(service, rpc.method))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.service, {rpc.method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextmanager
def serving_in_thread(service: Any) -> Generator[str]:
    """As `serving`, on an event loop of its own thread."""
    ready = threading.Event()
    target: list[str] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serving(service) as address:
            target[:] = [address]
            stops.append(lambda: loop.call_soon_threadsafe(stop.set))
            ready.set()
            await stop.wait()

    stops: list[Any] = []
    thread = threading.Thread(target=lambda: asyncio.run(run()), name="scripted-server", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield target[0]
    finally:
        stops[0]()
        thread.join(10)


def _handler(rpc: Rpc, behaviour: Any) -> grpc.RpcMethodHandler:
    async def unary(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except MLXIntegrationError as error:
            await context.abort_with_status(status.to_grpc_status(error))

    async def stream(request: Any, context: Any) -> Any:
        try:
            async with aclosing(behaviour(request, context)) as events:
                async for event in events:
                    yield event
        except MLXIntegrationError as error:
            await context.abort_with_status(status.to_grpc_status(error))

    kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        stream if rpc.streams_responses else unary,
        request_deserializer=rpc.deserialize_request,
        response_serializer=rpc.serialize,
    )
