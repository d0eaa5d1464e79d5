"""The transport protocol, and functions that open transports.

    open_transport("127.0.0.1:50051")      gRPC, one long-lived channel (`grpc_transport`)
    open_transport("local")                the engine in this process, if it is installed

A transport carries the RPCs of `neuroscope.wire.rpc` and raises only errors of `neuroscope.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from google.protobuf.message import Message

from neuroscope.errors import NeuroScopeIntegrationError
from neuroscope.wire.codec import Event
from neuroscope.wire.endpoint import Endpoint
from neuroscope.wire.grpc_transport import AsyncGrpcTransport, GrpcTransport
from neuroscope.wire.rpc import Rpc

__all__ = [
    "LOCAL",
    "LOCAL_ANALYSIS",
    "AsyncGrpcTransport",
    "AsyncTransport",
    "GrpcTransport",
    "Transport",
    "open_async_transport",
    "open_transport",
]
LOCAL = "local"
LOCAL_ANALYSIS = "local_analysis"
_ENTRY_POINTS = "neuroscope.transports"


class Transport(Protocol):
    """Makes calls and waits for their responses."""

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        ...

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """One request, a stream of responses. Closing the generator cancels the call."""
        ...

    def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        ...

    def close(self) -> None:
        """Cancels running calls and closes the connection."""
        ...


class AsyncTransport(Protocol):
    """Makes calls on an event loop."""

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One request, one response."""
        ...

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """One request, a stream of responses. Closing the generator cancels the call."""
        ...

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """A stream of requests, one response."""
        ...

    async def close(self) -> None:
        """Cancels running calls and closes the connection."""
        ...


def open_transport(target: str, **settings: Any) -> Transport:
    """Opens the transport of a target.

    Args:
        target: `host:port`, `unix:path`, `local` for the engine in this process, or `local_analysis` for an analysis
            service with that engine.
        **settings: fields of `Endpoint`, or settings of the engine.

    Raises:
        NeuroScopeIntegrationError: the target is local and the engine is not installed.
    """
    if target in (LOCAL, LOCAL_ANALYSIS):
        return _load_local(target)(**settings)
    return GrpcTransport(Endpoint(target, **settings))


def open_async_transport(target: str, **settings: Any) -> AsyncTransport:
    """`open_transport` for an event loop."""
    if target in (LOCAL, LOCAL_ANALYSIS):
        return _load_local(f"{target}_async")(**settings)
    return AsyncGrpcTransport(Endpoint(target, **settings))


def _load_local(name: str) -> Callable[..., Any]:
    found: Sequence[Any] = tuple(entry_points(group=_ENTRY_POINTS, name=name))
    if not found:
        raise NeuroScopeIntegrationError(
            "the inference engine is not installed: pip install 'neuroscope-mlx[inference]', or name a target"
        )
    return cast("Callable[..., Any]", found[0].load())
