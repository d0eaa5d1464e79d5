"""How many streams may run, of one client and of all; those that are too many are refused at once, the others go on."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import unquote

from neuroscope.errors import ResourceExhaustedError


def client_of(peer: str) -> str:
    """Who is behind a peer as gRPC names it: the address without the port, 127.0.0.1 of `ipv4:127.0.0.1:50312`."""
    scheme, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0] if scheme in ("ipv4", "ipv6") else scheme


def is_on_this_host(client: str) -> bool:
    """Whether a client is on this host, as far as its address tells: a tunnel's end is too."""
    if client == "unix":
        return True
    try:
        return ipaddress.ip_address(client.strip("[]")).is_loopback
    except ValueError:
        return False


class Admission:
    """Counts the streams that run; for one event loop.

    Args:
        max_streams_per_client: streams of one client.
        max_streams: streams of all clients.
    """

    def __init__(self, max_streams_per_client: int, max_streams: int) -> None:
        self._max_streams_per_client = max_streams_per_client
        self._max_streams = max_streams
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Streams of all clients."""
        return self._running.total()

    @contextmanager
    def admit(self, client: str) -> Generator[None, None, None]:
        """A stream of a client, for as long as it runs.

        Raises:
            ResourceExhaustedError: the client, or all clients, have as many as they may.
        """
        if self._running[client] >= self._max_streams_per_client:
            raise ResourceExhaustedError(
                f"{self._max_streams_per_client} streams of {client} are running, as many as the setting "
                f"max_streams_per_client allows; wait for one to end"
            )
        if self.running >= self._max_streams:
            raise ResourceExhaustedError(
                f"{self._max_streams} streams are running, as many as the setting max_streams allows; "
                f"wait for one to end"
            )
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]
