"""The gRPC server: handlers from the contract's descriptors, health, reflection, and a drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_reflection.v1alpha import reflection

from neuroscope.errors import NeuroScopeIntegrationError
from neuroscope.tracing import telemetry
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import Rpc
from neuroscope_serving import security
from neuroscope_serving.handlers import Context, handler
from neuroscope_serving.health import Health
from neuroscope_serving.peer import client_address
from neuroscope_serving.settings import ServingSettings
from neuroscope_serving.spans import Metadata
from neuroscope_serving.unix_socket import UnixSocket

_log = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_LAST_WORDS_S = 0.2
"""After the last call has ended, watchers of health have this long to receive the final status."""


class Service(Protocol):
    """A service, independent of the transport. Its errors are those of `neuroscope.errors`."""

    async def prepare(self) -> None:
        """Prepares the service. It is cancelled if the service is stopped first."""
        ...

    async def unary(self, rpc: Rpc, request: Event | AsyncIterator[Event], metadata: Metadata) -> Message:
        """Runs a call that returns one message."""
        ...

    def stream(self, rpc: Rpc, request: Event, metadata: Metadata, client: str = ...) -> AsyncGenerator[Event, None]:
        """Runs a call that returns a stream."""
        ...

    async def close(self) -> None:
        """Ends all running work."""
        ...


Settings = TypeVar("Settings", bound=ServingSettings)


async def serve(name: str, settings: Settings, rpcs: Mapping[str, Rpc], make: Callable[[Settings], Service]) -> None:
    """Serves until SIGTERM or SIGINT, then lets running requests end within the drain time.

    Args:
        name: the name of the service in its ready line and its spans.
        settings: address, authentication and limits.
        rpcs: the calls by method.
        make: makes the service on the event loop that it serves on.

    Raises:
        NeuroScopeIntegrationError, InvalidRequestError: the server cannot listen, or settings conflict.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    port_credentials, token = security.credentials(settings), security.token(settings)
    security.warn_if_exposed(settings)
    telemetry.configure(name)
    service = make(settings)
    server = grpc.aio.server(
        interceptors=[security.TokenInterceptor(token)] if token else [],
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # Resources of a client that vanished are freed within 80 s. Clients that ping more often than every 10 s
            # are disconnected.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.ping_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", 0),  # a second service on the same port is an error
        ],
    )
    calls = _Calls()
    names = sorted({rpc.service for rpc in rpcs.values()})
    for each in names:
        handlers = {rpc.method: _handler(service, rpc, calls) for rpc in rpcs.values() if rpc.service == each}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(each, handlers),))
    health = Health(names)
    server.add_generic_rpc_handlers((health.handlers(),))
    reflection.enable_server_reflection((*names, HEALTH_NAME, reflection.SERVICE_NAME), server)
    port = _bind(server, settings, port_credentials)
    unix_socket = UnixSocket.of(settings)
    if unix_socket is not None:
        unix_socket.bind(server)
    await health.set_all(health_pb2.HealthCheckResponse.NOT_SERVING)  # health changes once the service is prepared
    await server.start()
    try:
        if await _ends_before(stop, service.prepare()):
            await health.set_all(health_pb2.HealthCheckResponse.SERVING)
            if unix_socket is not None:
                print(f"{name} also listens on {unix_socket}", flush=True)
            print(f"{name} ready on {_address(settings.host, port)}", flush=True)
            await stop.wait()
        _log.info("draining for up to %g s", settings.drain_seconds)
        await health.enter_graceful_shutdown()
    finally:
        draining = asyncio.create_task(server.stop(settings.drain_seconds))
        await asyncio.wait({draining, asyncio.create_task(calls.ended())}, return_when=asyncio.FIRST_COMPLETED)
        await server.stop(_LAST_WORDS_S)  # streams of health and reflection would last until the end of the drain time
        await draining
        if unix_socket is not None:
            unix_socket.close()
        await service.close()
        telemetry.shutdown()


class _Calls:
    """The number of running calls, without those of health and reflection, which need not end."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self, context: Context) -> None:
        """Counts a call until its status is sent."""
        self._count += 1
        self._none.clear()
        end: Any = self._end  # the stubs require an instance of their own class
        context.add_done_callback(end)

    async def ended(self) -> None:
        """Waits until no call runs."""
        await self._none.wait()

    def _end(self, _: Any) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()


async def _ends_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Waits for work to end; cancels it on a signal."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        return False
    return True


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: grpc.aio.Server, settings: ServingSettings, credentials: grpc.ServerCredentials | None) -> int:
    address = _address(settings.host, settings.port)
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise NeuroScopeIntegrationError(
            f"cannot listen on {address}: the port is in use, or the address is of another machine; choose another",
            field="port",
        )
    return port


def _handler(service: Service, rpc: Rpc, calls: _Calls) -> grpc.RpcMethodHandler[Any, Any]:
    async def stream(request: Event, context: Context) -> None:
        calls.begin(context)
        metadata, client = context.invocation_metadata() or (), client_address(context.peer())
        async with aclosing(service.stream(rpc, request, metadata, client)) as events:
            async for event in events:
                await context.write(event)

    async def unary(request: Event | AsyncIterator[Event], context: Context) -> Message:
        calls.begin(context)
        return await service.unary(rpc, request, context.invocation_metadata() or ())

    return handler(rpc, stream if rpc.streams_responses else unary)
