"""Calls as values: a unary call, an upload, a stream, and flows of several calls.

`neuroscope.base_client.client` runs them, synchronously or on an event loop; `client_method` makes methods of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from neuroscope.base_client.progress import ByteListener
from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import Rpc

if TYPE_CHECKING:
    from neuroscope.activations.cache import ActivationCache

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A unary call and the conversion of its response. In a call flow, `yield from call` returns its value."""

    name: str
    """Name of the client's method; the span is `neuroscope.<name>`."""
    rpc: Rpc
    request: Message
    result: Callable[[Any], T]
    """Converts the response; for a stream, its last message."""

    def __iter__(self) -> CallFlow[T]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Upload(Generic[T]):
    """A client-streaming call. In a call flow, `yield from upload` returns the value of its response."""

    name: str
    rpc: Rpc
    requests: Iterable[Event]
    result: Callable[[Any], T]

    def __iter__(self) -> CallFlow[T]:
        return (yield self)


def _nothing() -> None:
    """No check at the end of a stream."""


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A server-streaming call and the conversion of its messages to values."""

    name: str
    rpc: Rpc
    request: Message
    take: Callable[[Any], Iterable[T]]
    finish: Callable[[], object] = _nothing
    """Called at the end of the stream, to check that it is complete."""

    def each(self, heard: Callable[[T], object]) -> CallFlow[None]:
        """Calls a function with each value of the stream."""

        def take(event: Any) -> tuple[()]:
            for value in self.take(event):
                heard(value)
            return ()

        yield Stream(self.name, self.rpc, self.request, take, self.finish)


@dataclass(frozen=True, slots=True)
class CaptureStream:
    """A capture, including its retries. In a call flow, `yield from` returns its cache."""

    call: Call[None]
    capture_id: str = ""
    """Id under which the service stores the stream; empty: it does not."""
    restarts: bool = True
    """Whether the service runs an incomplete capture again."""
    what: str = "capturing"
    """Description of the progress bar."""
    progress: ByteListener = False

    def __iter__(self) -> CallFlow[ActivationCache]:
        return (yield self)


Operation: TypeAlias = Call[Any] | Upload[Any] | Stream[Any] | CaptureStream
CallFlow: TypeAlias = Generator[Operation, Any, T]
"""A generator of calls that receives their values and returns the result. Both clients can run it."""
