"""A gateway in front of the scripted inference service, both real servers on loopback ports, in a thread of their own.

grpc.aio wants one event loop a process, so both run on one; tests talk HTTP to it from outside.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import uvicorn

from neuroscope_gateway.app import create_app
from neuroscope_gateway.server import listen, url
from neuroscope_gateway.settings import GatewaySettings
from tests.support.fake_inference import FakeInference


@dataclass
class RunningGateway:
    """Where it is, and what is behind it."""

    url: str
    inference: str
    fake: FakeInference


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, ready: threading.Event, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


@contextmanager
def running_gateway(**settings: Any) -> Generator[RunningGateway]:
    """A gateway with the given settings."""
    fake = FakeInference()
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    failures: list[BaseException] = []
    servers: list[uvicorn.Server] = []
    targets: list[str] = []

    async def serve() -> None:
        service = grpc.aio.server()
        fake.add_to(service)
        port = service.add_insecure_port("127.0.0.1:0")
        await service.start()
        try:
            chosen: dict[str, Any] = {"inference": f"127.0.0.1:{port}"} | settings
            app = create_app(GatewaySettings(**chosen))
            config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2, lifespan="on")
            server = _Server(ready, config)
            servers.append(server)
            targets.append(f"127.0.0.1:{port}")
            await server.serve([listener])
        finally:
            listener.close()
            await service.stop(0)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    address = url(listener)
    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    ready.wait(30)
    try:
        if failures:
            raise failures[0]
        yield RunningGateway(address, targets[0], fake)
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the gateway did not stop"
