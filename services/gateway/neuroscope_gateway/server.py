"""The process: a port, uvicorn, a line when it is ready, a drain when it is told to stop."""

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
"""How long running requests may take to end after SIGTERM."""
PORTS_TRIED = 100


def run(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be listened on.
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
    """A bound socket, on the next free port where the wanted one is taken.

    Raises:
        OSError: the address is none of this machine's, or the ports are not allowed or all taken.
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
    """The address of a socket as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn that says when it accepts connections, and ends with status 0 when it was asked to end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections and prints the ready line."""
        await super().startup(sockets)
        if self.started and sockets:
            sys.stdout.write(f"neuroscope-gateway ready on {url(sockets[0])}\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Drains on SIGTERM and SIGINT, without raising the signal again afterwards as uvicorn does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
