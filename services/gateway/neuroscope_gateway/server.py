"""The server process: socket, uvicorn, ready line, graceful shutdown."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Generator

import uvicorn

from neuroscope_gateway.app import create_app
from neuroscope_gateway.settings import WILDCARD_ADDRESSES, GatewaySettings

logger = logging.getLogger(__name__)

DRAIN_S = 30
"""Timeout of the graceful shutdown after SIGTERM."""
PORTS_TRIED = 100


def run(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be bound.
    """
    listener = listen(settings.host, settings.port)
    if settings.host in WILDCARD_ADDRESSES:
        names = ", ".join(sorted(settings.hosts()))
        logger.warning("listening on all addresses, but answering only requests for %s (allowed_hosts)", names)
    config = uvicorn.Config(
        create_app(settings), log_config=None, timeout_graceful_shutdown=DRAIN_S, server_header=False, lifespan="on"
    )
    Server(config).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, on the next free port if the requested one is taken.

    Raises:
        OSError: the address cannot be bound, or no port is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + PORTS_TRIED, 65536) if port else 1
    for candidate in range(port, last):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(socket.SOMAXCONN)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or candidate == last - 1:
                raise
            continue
        if candidate != port:
            logger.warning("port %d is taken; using %d (choose another with --port)", port, candidate)
        return listener
    raise AssertionError("unreachable")


def url(listener: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A uvicorn server that prints a ready line, and exits with status 0 after a signal."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the server and prints the ready line."""
        await super().startup(sockets)
        if self.started and sockets:
            sys.stdout.write(f"neuroscope-gateway ready on {url(sockets[0])}\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Shuts down gracefully on SIGTERM and SIGINT; unlike uvicorn, does not re-raise the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
