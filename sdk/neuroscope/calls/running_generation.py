"""A running generation: an iterator of tokens, each with what was captured while it was computed.

    with client.generate("The capital of France is", hooks=["resid_post"], max_tokens=8) as generation:
        for token in generation:
            print(token.text, token.activations)
    generation.text, generation.cache["resid_post", 5], generation.manifest

`AsyncGeneration` is the same for `async for`. What the stream's events mean is in `neuroscope.activations.stream`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any

from opentelemetry import trace

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.stream import GeneratedToken, StreamState
from neuroscope.base_client.call import Call
from neuroscope.base_client.retry import GenerationRetry
from neuroscope.errors import StreamingError, UnknownIdError
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tools import ToolCall
from neuroscope.wire.codec import Event


class _BaseGeneration:
    """Attributes of both kinds of generation."""

    def __init__(self, state: StreamState, span: trace.Span, *, auto_advance: bool) -> None:
        self._state = state
        self._span = span
        self._auto_advance = auto_advance
        self._asked = False
        self._cancelled = False
        self._ended = False

    @property
    def text(self) -> str:
        """The text of row 0 so far."""
        return self._state.texts[0] if self._state.texts else ""

    @property
    def texts(self) -> list[str]:
        """The text of each row so far."""
        return list(self._state.texts)

    @property
    def tool_calls(self) -> list[list[ToolCall]]:
        """The tool calls of each row so far; their text is not part of `texts`."""
        return [list(calls) for calls in self._state.tool_calls]

    @property
    def plan(self) -> tensor_pb2.TensorPlan | None:
        """The plan of the captured tensors; None before the first message, or if nothing is captured."""
        return self._state.plan

    @property
    def cache(self) -> ActivationCache:
        """Everything captured so far; empty with `keep=False`."""
        return self._state.cache

    @property
    def manifest(self) -> pb.Manifest:
        """The server's summary of the stream, checked against the received frames.

        Raises:
            StreamingError: the stream has not ended, or was cancelled.
        """
        if self._state.manifest is None:
            how = "was cancelled" if self._cancelled else "has not ended" if not self._ended else "broke off"
            raise StreamingError(f"the generation {how}; the manifest follows the last token")
        return self._state.manifest

    @property
    def usage(self) -> pb.Usage:
        """Numbers of prompt and generated tokens, from the manifest."""
        return self.manifest.usage

    def __repr__(self) -> str:
        how = "cancelled" if self._cancelled else "ended" if self._ended else "running"
        return f"<{type(self).__name__} {how}, {self._state.token_count} tokens, {self._state.received_bytes} bytes>"

    def __del__(self) -> None:
        with suppress(Exception):  # gRPC cancels the call of a generation that is garbage-collected; its span ends here
            self._cancelled = True
            self._end()

    def _begun(self) -> pb.StreamStarted:
        if self._state.started is None:
            raise StreamingError("the generation has not started: read from it first")
        return self._state.started

    def _needs_credit(self) -> bool:
        """Whether to grant credit now: once per requested token."""
        asked, self._asked = self._asked, False
        return asked and self._auto_advance and self._state.wants_step()

    def _in_span(self) -> AbstractContextManager[Any]:
        """Makes the span current while the call starts."""
        if self._state.started is not None:
            return nullcontext()
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def _end(self, error: BaseException | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        self._span.set_attributes(self._state.attributes())
        if error is not None:
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
        elif self._cancelled:
            self._span.set_status(trace.StatusCode.ERROR, "cancelled")
        self._span.end()


class Generation(_BaseGeneration, Iterator[GeneratedToken]):
    """A running generation. Iterate it to its end or close it; leaving its `with` block closes it.

    Iteration raises the server's errors, and
        StreamingError: the stream broke, or a frame is missing.
        ChecksumError: bytes differ from their checksum or from the manifest.
    """

    def __init__(
        self,
        events: Generator[Event, None, None],
        state: StreamState,
        span: trace.Span,
        advance: Callable[[str, int], int],
        steer: Callable[[str, Sequence[InterventionLike]], int],
        *,
        auto_advance: bool = False,
        resumption: GenerationRetry | None = None,
        open_stream: Callable[[Call[None]], Generator[Event, None, None]] | None = None,
    ) -> None:
        super().__init__(state, span, auto_advance=auto_advance)
        self._events = events
        self._give_credit = advance
        self._replace_interventions = steer
        self._resumption = resumption
        self._open_stream = open_stream

    @property
    def started(self) -> pb.StreamStarted:
        """The plan: stream id, model, token ids of the prompts, seed. Waits for it."""
        while self._state.started is None and not self._ended:
            self._read()
        return self._begun()

    def advance(self, steps: int = 1) -> int:
        """Grants further steps to a generation with `max_steps_ahead`; returns the steps granted so far."""
        granted = self._give_credit(self.started.stream_id, steps)
        self._state.grant(granted)
        return granted

    def steer(self, interventions: Sequence[InterventionLike]) -> int:
        """Replaces the interventions; none: continues without edits. Returns the first step with the new ones.

        The engine may be ahead of the last read token; `max_steps_ahead=1` prevents that.
        """
        return self._replace_interventions(self.started.stream_id, interventions)

    def wait(self) -> Generation:
        """Reads to the end."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Cancels the generation, from any thread; iteration stops."""
        if not self._ended:
            self._cancelled = True
            self._events.close()
            self._end()

    close = cancel

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> GeneratedToken:
        self._asked = True
        while not self._ended:
            token = self._read()
            if token is not None:
                return token
        raise StopIteration

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def _read(self) -> GeneratedToken | None:
        try:
            if self._needs_credit():
                self._advance_if_running()
            with self._in_span():
                event = next(self._events, None)
            if event is not None:
                return self._state.feed(event)
            if not self._cancelled:
                self._state.finish()
        except BaseException as error:
            self._events.close()
            if self._resumed(error):
                return None
            self._end(error)
            raise
        self._end()
        return None

    def _advance_if_running(self) -> None:
        with suppress(UnknownIdError):  # it has computed its last step, or failed; its stream says which
            self.advance()

    def _resumed(self, error: BaseException) -> bool:
        """Whether the stream is resumed after a broken connection."""
        if self._resumption is None or self._open_stream is None or self._cancelled:
            return False
        if (again := self._resumption.after(error, self._state)) is None:
            return False
        call, pause_s = again
        time.sleep(pause_s)
        self._events = self._open_stream(call)
        return True


class AsyncGeneration(_BaseGeneration, AsyncIterator[GeneratedToken]):
    """`Generation` for the asynchronous client: `async for token in client.generate(...)`."""

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        state: StreamState,
        span: trace.Span,
        advance: Callable[[str, int], Awaitable[int]],
        steer: Callable[[str, Sequence[InterventionLike]], Awaitable[int]],
        *,
        auto_advance: bool = False,
        resumption: GenerationRetry | None = None,
        open_stream: Callable[[Call[None]], AsyncGenerator[Event, None]] | None = None,
    ) -> None:
        super().__init__(state, span, auto_advance=auto_advance)
        self._events = events
        self._give_credit = advance
        self._replace_interventions = steer
        self._resumption = resumption
        self._open_stream = open_stream

    @property
    def started(self) -> pb.StreamStarted:
        """The plan.

        Raises:
            StreamingError: it is not read yet; `await generation.start()` reads it.
        """
        return self._begun()

    async def start(self) -> pb.StreamStarted:
        """Waits for the plan: stream id, model, token ids of the prompts, seed."""
        while self._state.started is None and not self._ended:
            await self._read()
        return self._begun()

    async def advance(self, steps: int = 1) -> int:
        """Grants further steps to a generation with `max_steps_ahead`; returns the steps granted so far."""
        granted = await self._give_credit((await self.start()).stream_id, steps)
        self._state.grant(granted)
        return granted

    async def steer(self, interventions: Sequence[InterventionLike]) -> int:
        """Replaces the interventions; none: continues without edits. Returns the first step with the new ones."""
        return await self._replace_interventions((await self.start()).stream_id, interventions)

    async def wait(self) -> AsyncGeneration:
        """Reads to the end."""
        async for _ in self:
            pass
        return self

    async def cancel(self) -> None:
        """Cancels the generation, from any task; iteration stops."""
        if not self._ended:
            self._cancelled = True
            await self._events.aclose()
            self._end()

    aclose = cancel

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> GeneratedToken:
        self._asked = True
        while not self._ended:
            token = await self._read()
            if token is not None:
                return token
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cancel()

    async def _read(self) -> GeneratedToken | None:
        try:
            if self._needs_credit():
                await self._advance_if_running()
            with self._in_span():
                event = await anext(self._events, None)
            if event is not None:
                return self._state.feed(event)
            if not self._cancelled:
                self._state.finish()
        except BaseException as error:
            await self._events.aclose()
            if await self._resumed(error):
                return None
            self._end(error)
            raise
        self._end()
        return None

    async def _advance_if_running(self) -> None:
        with suppress(UnknownIdError):  # it has computed its last step, or failed; its stream says which
            await self.advance()

    async def _resumed(self, error: BaseException) -> bool:
        """Whether the stream is resumed after a broken connection."""
        if self._resumption is None or self._open_stream is None or self._cancelled:
            return False
        if (again := self._resumption.after(error, self._state)) is None:
            return False
        call, pause_s = again
        await asyncio.sleep(pause_s)
        self._events = self._open_stream(call)
        return True
