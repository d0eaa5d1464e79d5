"""Transports that answer with what a test gives them, without a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from opentelemetry import trace

from neuroscope.wire.codec import Event
from neuroscope.wire.rpc import Rpc


@dataclass
class ScriptedTransport:
    """Answers calls by functions of their requests; notes what was asked.

    Attributes:
        answers: for each method a response or error, events and errors, or a function from the request to these.
        calls: (method, request, timeout) so far.
        spans: the span in which each call began.
        closed_streams: methods whose streams were closed before their end.
    """

    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    calls: list[tuple[str, Any, float | None]] = field(default_factory=list[Any])
    spans: list[trace.Span] = field(default_factory=list[trace.Span])
    closed_streams: list[str] = field(default_factory=list[str])
    closed: bool = False

    def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One answer."""
        answer = self._answer(rpc, request, timeout_s)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def stream(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Generator[Event, None, None]:
        """The events of the answer; an error among them is raised."""
        return self._events(rpc, self._answer(rpc, request, timeout_s))

    def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """One answer."""
        return self.unary(rpc, list(requests), timeout_s=timeout_s)  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        """Notes it."""
        self.closed = True

    def _events(self, rpc: Rpc, answer: Any) -> Generator[Event, None, None]:
        ended = False
        try:
            for event in answer:
                if isinstance(event, BaseException):
                    raise event
                yield event
            ended = True
        finally:
            if not ended:
                self.closed_streams.append(rpc.method)

    def _answer(self, rpc: Rpc, request: Any, timeout_s: float | None) -> Any:
        self.calls.append((rpc.method, request, timeout_s))
        self.spans.append(trace.get_current_span())
        answer = self.answers[rpc.method]
        return answer(request) if isinstance(answer, Callable) else answer


class AsyncScriptedTransport:
    """The same for an event loop."""

    def __init__(self, scripted: ScriptedTransport) -> None:
        self.scripted = scripted

    async def unary(self, rpc: Rpc, request: Message, *, timeout_s: float | None = None) -> Message:
        """One answer."""
        return self.scripted.unary(rpc, request, timeout_s=timeout_s)

    async def stream(
        self, rpc: Rpc, request: Message, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of the answer."""
        events = self.scripted.stream(rpc, request, timeout_s=timeout_s)
        try:
            for event in events:
                yield event
        finally:
            events.close()

    async def upload(self, rpc: Rpc, requests: Iterable[Event], *, timeout_s: float | None = None) -> Message:
        """One answer."""
        return self.scripted.upload(rpc, requests, timeout_s=timeout_s)

    async def close(self) -> None:
        """Notes it."""
        self.scripted.close()
