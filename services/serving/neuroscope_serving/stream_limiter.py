"""Limits of concurrent streams, for each client and for all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from neuroscope.errors import ResourceExhaustedError


class StreamLimiter:
    """Counts running streams and refuses those above the limits at once. For one event loop.

    Args:
        max_streams_per_client: concurrent streams of one client.
        max_streams: concurrent streams of all clients.
    """

    def __init__(self, max_streams_per_client: int, max_streams: int) -> None:
        self._max_streams_per_client = max_streams_per_client
        self._max_streams = max_streams
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Running streams of all clients."""
        return self._running.total()

    @contextmanager
    def acquire(self, client: str) -> Generator[None, None, None]:
        """Counts a stream of a client for the length of the block.

        Raises:
            ResourceExhaustedError: the client, or all clients together, have reached their limit.
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
