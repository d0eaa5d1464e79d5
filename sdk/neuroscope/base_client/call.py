"""What both clients do with a service, as values: a call, an upload, a stream, and several of them one after the other.

Who makes them is in `caller`: one class that waits, and one on an event loop. `client_method` makes methods of both.
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
    """A request, where it goes, and what its response means. Within steps, `yield from call` is its value."""

    name: str
    """Method of the client; the span is `neuroscope.<name>`."""
    rpc: Rpc
    request: Message
    result: Callable[[Any], T]
    """The value of a response; of a stream, of its last message."""

    def __iter__(self) -> CallFlow[T]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Upload(Generic[T]):
    """A stream of requests, and what the one response means. Within steps, `yield from upload` is its value."""

    name: str
    rpc: Rpc
    requests: Iterable[Event]
    result: Callable[[Any], T]

    def __iter__(self) -> CallFlow[T]:
        return (yield self)


def _nothing() -> None:
    """The end of a stream that needs none."""


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A request whose answer is a stream, and the values that each of its messages gives."""

    name: str
    rpc: Rpc
    request: Message
    take: Callable[[Any], Iterable[T]]
    finish: Callable[[], object] = _nothing
    """Called at the end of the stream, to say whether it was whole."""

    def each(self, heard: Callable[[T], object]) -> CallFlow[None]:
        """Hears every value as it comes, to the end."""

        def take(event: Any) -> tuple[()]:
            for value in self.take(event):
                heard(value)
            return ()

        yield Stream(self.name, self.rpc, self.request, take, self.finish)


@dataclass(frozen=True, slots=True)
class CaptureStream:
    """A call that streams tensors, over as many attempts as it takes; its value within steps is their cache."""

    call: Call[None]
    capture_id: str = ""
    """Under which the service keeps it; empty: it does not."""
    restarts: bool = True
    """Whether the service is to run it again, if it broke off before it was whole."""
    what: str = "capturing"
    """For the bar."""
    progress: ByteListener = False

    def __iter__(self) -> CallFlow[ActivationCache]:
        return (yield self)


Operation: TypeAlias = Call[Any] | Upload[Any] | Stream[Any] | CaptureStream
CallFlow: TypeAlias = Generator[Operation, Any, T]
"""Several calls, each made of what the earlier ones gave, and the value in the end; either client can follow them."""
